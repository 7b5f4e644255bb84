"""Filters: their grammar, their presets, and errors that list what is allowed."""

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
    """Spaces and the prefix of score columns do not matter."""
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
        ("prettiness >= 1", "no score is called 'prettiness'; scores: mask_area, edit_rms"),
        (["mask_area >= 0.1", 3], "3 is not a filter"),
        (
            {"preset": "best"},
            "no preset is called 'best'; presets: instruct_pix2pix, ultraedit, ultraedit_region",
        ),
        ({"preset": "ultraedit", "or": 1}, "is not a filter"),
        ("lpips <= 0.5", "does not compute lpips; configure scores.lpips"),
        (
            {"preset": "instruct_pix2pix"},
            "configure scores.clip, or filter by a score of this run: ",
        ),
    ],
)
def test_bad_filter_says_what_is_allowed(value: Any, message: str) -> None:
    """Bad grammar, unknown scores, unknown presets, and scores that the run does not compute."""
    with pytest.raises(ConfigError, match=r"(?s).*") as caught:
        filters_of(value)
    assert message in str(caught.value)


def test_presets_are_spelled_out() -> None:
    """A preset and other filters give one sorted list without duplicates."""
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


def test_order_and_spelling_do_not_change_the_fingerprint() -> None:
    """The same conditions have the same fingerprint, others another one."""
    one = filtering_of(["mask_area <= 0.5", "edit_rms > 0.1"])
    assert one.fingerprint == filtering_of(["score_edit_rms>0.10", "mask_area<=.5"]).fingerprint
    assert one.fingerprint != filtering_of(["mask_area <= 0.5"]).fingerprint
    assert canonical([]) == []


def test_scores_are_compared_in_float32_like_their_column() -> None:
    """0.2 in float32 is above 0.2 in float64, but meets <= 0.2. A missing score meets none."""
    stored = float(np.float32(0.2))
    for text in ("mask_area >= 0.2", "mask_area <= 0.2"):
        assert parse_filter(text).is_met(stored)
    for text in ("mask_area > 0.2", "mask_area < 0.2"):
        assert not parse_filter(text).is_met(stored)
    assert not parse_filter("mask_area >= -9").is_met(None)
    assert not parse_filter("mask_area >= -9").is_met(float("nan"))


def test_verdict_names_the_first_filter_and_explains_all() -> None:
    """The row's error is the first filter that rejects it; its message has the value of each."""
    filtering = filtering_of(["mask_area <= 0.5", "edit_rms >= 0.2", "background_ssim > 0.9"])
    row = {"mask_area": 0.75, "score_edit_rms": 0.3, "score_background_ssim": None}
    assert filtering.verdict(row) == (
        "background_ssim > 0.9",
        "background_ssim > 0.9: this edit has no background_ssim; mask_area <= 0.5: it is 0.75",
    )
    assert filtering.verdict(row | {"score_background_ssim": 0.95, "mask_area": 0.5}) is None


def test_aesthetic_needs_clip() -> None:
    """It reads CLIP's features."""
    with pytest.raises(ConfigError, match=r"give scores\.clip too"):
        filters_of([], aesthetic={"path": "x"})
