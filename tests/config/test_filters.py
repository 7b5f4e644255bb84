"""Filters: a grammar of one line, presets, and errors that list what is allowed."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from pipeline.config.filters import PRESETS, Filter, canonical, filtering_of, parse_filter
from pipeline.config.load import ConfigError, parse_config

BASE: dict[str, Any] = {"input": {"shards": "a"}, "output": {"path": "b"}}
CLIP = {"clip": {"path": "x"}}


def filters_of(value: Any, **scores: Any) -> list[str]:
    return parse_config({**BASE, "filters": value, "scores": scores}).filters


@pytest.mark.parametrize(
    ("text", "parsed"),
    [
        ("clip_directional >= 0.2", Filter("clip_directional", ">=", 0.2)),
        ("  lpips<.5 ", Filter("lpips", "<", 0.5)),
        ("score_lpips <= 1e-1", Filter("lpips", "<=", 0.1)),
        ("mask_area > -1", Filter("mask_area", ">", -1.0)),
    ],
)
def test_a_filter_is_a_name_an_operator_and_a_number(text: str, parsed: Filter) -> None:
    """Spaces and the columns' prefix are no matter."""
    assert parse_filter(text) == parsed
    assert parse_filter(str(parsed)) == parsed


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("mask_area", "write 'name operator number'"),
        ("mask_area == 1", "write 'name operator number'"),
        ("mask_area >= 0.1; mask_area < 2", "write 'name operator number'"),
        ("__import__('os') >= 1", "write 'name operator number'"),
        ("mask_area >= nan", "write 'name operator number'"),
        ("mask_area >= 1e999", "not a finite number"),
        ("prettiness >= 1", "no score is called 'prettiness'; there are mask_area, edit_rms"),
        (["mask_area >= 0.1", 3], "3 is no filter"),
        ({"preset": "best"}, "there are instruct_pix2pix, ultraedit, ultraedit_region"),
        ({"preset": "ultraedit", "or": 1}, "is no filter"),
        ("lpips <= 0.5", "does not compute lpips; configure scores.lpips"),
        ({"preset": "instruct_pix2pix"}, "configure scores.clip, or filter by what is computed: "),
    ],
)
def test_what_is_no_filter_says_what_is_allowed(value: Any, message: str) -> None:
    """Grammar, unknown names, unknown presets, and scores that the run does not compute."""
    with pytest.raises(ConfigError, match=r"(?s).*") as caught:
        filters_of(value)
    assert message in str(caught.value)


def test_presets_are_spelled_out() -> None:
    """A preset and further filters give one sorted list, each filter once."""
    value = [{"preset": "instruct_pix2pix"}, "mask_area <= 0.5", "clip_image >= 0.70"]
    assert filters_of(value, **CLIP) == [
        "clip_directional >= 0.2",
        "clip_image >= 0.7",
        "clip_text_after >= 0.2",
        "clip_text_before >= 0.2",
        "mask_area <= 0.5",
    ]
    assert filters_of({"preset": "ultraedit"}, **CLIP, dinov2={"path": "x"}) == sorted(
        PRESETS["ultraedit"]
    )


def test_order_and_spelling_do_not_move_the_fingerprint() -> None:
    """The same conditions are the same filters; another threshold is another."""
    one = filtering_of(["mask_area <= 0.5", "edit_rms > 0.1"])
    assert one.fingerprint == filtering_of(["score_edit_rms>0.10", "mask_area<=.5"]).fingerprint
    assert one.fingerprint != filtering_of(["mask_area <= 0.5"]).fingerprint
    assert canonical([]) == []


def test_scores_are_compared_as_the_column_has_them() -> None:
    """0.2 as float32 is above 0.2 as float64, and still meets <= 0.2; no score meets nothing."""
    stored = float(np.float32(0.2))
    for text in ("mask_area >= 0.2", "mask_area <= 0.2"):
        assert parse_filter(text).is_met(stored)
    for text in ("mask_area > 0.2", "mask_area < 0.2"):
        assert not parse_filter(text).is_met(stored)
    assert not parse_filter("mask_area >= -9").is_met(None)
    assert not parse_filter("mask_area >= -9").is_met(float("nan"))


def test_the_first_filter_is_named_and_all_are_explained() -> None:
    """The row's error is one filter, its message says what each saw."""
    filtering = filtering_of(["mask_area <= 0.5", "edit_rms >= 0.2", "background_ssim > 0.9"])
    row = {"mask_area": 0.75, "score_edit_rms": 0.3, "score_background_ssim": None}
    assert filtering.verdict(row) == (
        "background_ssim > 0.9",
        "background_ssim > 0.9: this edit has no background_ssim; mask_area <= 0.5: it is 0.75",
    )
    assert filtering.verdict(row | {"score_background_ssim": 0.95, "mask_area": 0.5}) is None


def test_the_aesthetic_head_needs_clip() -> None:
    """It reads CLIP's features."""
    with pytest.raises(ConfigError, match=r"give scores\.clip too"):
        filters_of([], aesthetic={"path": "x"})
