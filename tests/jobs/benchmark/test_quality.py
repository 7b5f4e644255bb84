"""What faster decoding costs in quality: paired differences, the settings, and a short run."""

from __future__ import annotations

import json
import math
import sys
from pathlib import Path

import pytest

from jobs.benchmark.paired import paired_difference
from jobs.benchmark.quality import main, settings_of, with_setting
from pipeline.config.method import Method


def test_paired_difference_by_hand() -> None:
    """Of 98 edits six are gained and two lost, so the interval is centered at 4 of 100."""
    pairs = [(1.0, 0.0)] * 6 + [(0.0, 1.0)] * 2 + [(1.0, 1.0)] * 70 + [(0.0, 0.0)] * 20
    found = paired_difference(pairs)
    assert (found["edits"], found["gained"], found["lost"]) == (98, 6, 2)
    assert found["difference"] == pytest.approx(400 / 98)
    half = 1.96 * math.sqrt(9 - 16 / 100)
    assert found["low"] == pytest.approx(4.0 - half, rel=1e-4)
    assert found["high"] == pytest.approx(4.0 + half, rel=1e-4)


def test_the_interval_of_equal_pairs_shrinks_with_more_edits() -> None:
    """It never has zero width."""
    few, many = (paired_difference([(1.0, 1.0)] * number) for number in (10, 1000))
    assert few["difference"] == many["difference"] == 0.0
    assert few["high"] > 10.0 > 1.0 > many["high"] > 0.0


def test_settings_reach_the_method() -> None:
    """Boxes keep the method's other settings; features are reused in one stage or in two."""
    settings = settings_of([2], [3], [1], encode=True)
    methods = [with_setting(Method(), setting) for setting in settings]
    assert [method.decode.region for method in methods] == ["full", "box", "full", "full"]
    assert [method.reuse.interval for method in methods] == [1, 1, 3, 3]
    assert [method.reuse.encode for method in methods] == [False, False, False, True]


def test_another_config_gives_its_method_but_not_its_mask(tmp_path: Path) -> None:
    """So the rows differ in encoding and decoding alone."""
    path = tmp_path / "fast.yaml"
    path.write_text("method: {steps: 4, guidance_interval: [0.2, 0.5], mask: {num_noises: 3}}")
    found = with_setting(Method(mask={"num_noises": 7}), {"method": str(path)})
    assert (found.steps, found.guidance_interval, found.mask.num_noises) == (4, (0.2, 0.5), 7)


@pytest.mark.slow
def test_every_setting_has_a_row(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A run on two edits writes each setting's figures and its difference from the full decode."""
    out, config = tmp_path / "quality.json", tmp_path / "demo.yaml"
    config.write_text("method: {steps: 4, mask: {num_noises: 2, floor: 0.0}}")
    other = tmp_path / "other.yaml"
    other.write_text("method: {steps: 2, solver: dpmpp_2m, guidance_interval: [0.0, 0.5]}")
    words = f"quality --config {config} --edits 2 --contexts 1 --intervals 2 --layers 1 --out {out}"
    words += f" --methods {other} --threads 1"
    monkeypatch.setattr(sys, "argv", words.split())
    main()
    rows = json.loads(out.read_text())["rows"]
    assert [row.get("region", row.get("interval")) for row in rows] == ["full", "box", 2, None]
    assert rows[-1]["method"] == str(other)
    assert all(row["paired"]["edits"] == row["edits"] == 2 for row in rows)
    assert rows[0]["paired"]["gained"] == rows[0]["paired"]["lost"] == 0
