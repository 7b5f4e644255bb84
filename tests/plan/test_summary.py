"""The summary adds up markers, and says how many edits may be cut."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from jobs.edit.summary_tables import print_summary
from pipeline.images.composite import CUT_NOTE
from pipeline.plan.plan import Plan
from pipeline.plan.summary import summarize
from pipeline.records.part import Part
from pipeline.steps.marker import ShardStats
from tests.committing import invert
from tests.fake_job import fake_plan, run_fake
from tests.samples import encode, pixels, raw_sample, write_shard


def run_cut(folder: Path, resize: str) -> Plan:
    """Two shards of wide originals; two of their four edits are at the border of the crop."""
    wide = [encode(pixels(n, 48, 96)) for n in range(4)]
    for shard in range(2):
        write_shard(
            folder / f"in/{shard}.tar",
            [raw_sample(f"{n}", png=wide[2 * shard + n], seed=n) for n in range(2)],
        )

    def edit(part: Part) -> Part:
        for item in invert(part).samples:
            for made in item.edits:
                assert made.mask is not None
                made.mask = np.roll(made.mask, -1, axis=1) if item.key == "0" else made.mask * 0
                made.mask[1:3, 1] = 1
        return part

    sections: dict[str, Any] = {
        "output": {"resolution": "source"},
        "model": {"resize": resize, "size": 32},
    }
    return run_fake(fake_plan(f"{folder}/in/*.tar", f"{folder}/out", **sections), edit=edit)


def test_the_share_of_cut_masks_is_in_the_summary(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Counted from the rows' notes at publishing, kept in the markers, printed at the end."""
    plan = run_cut(tmp_path, "crop")
    summary = summarize(plan, 1.0, 4)
    assert (summary.cut_masks, summary.counts["edited"], summary.cut_mask_share) == (2, 4, 0.5)
    saved = json.loads(plan.output.get("_run/summary.json"))
    assert (saved["cut_masks"], saved["cut_mask_share"]) == (2, 0.5)
    print_summary(plan, summary)
    printed = capsys.readouterr().out
    assert "2 edited images (50.0%): the mask meets the border of the crop" in printed
    assert CUT_NOTE in plan.output.get("0.parquet").decode("latin-1")


def test_a_padded_original_has_no_cut_masks(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """And the summary has no line about it."""
    plan = run_cut(tmp_path, "pad")
    summary = summarize(plan, 1.0, 4)
    assert (summary.cut_masks, summary.cut_mask_share) == (0, 0.0)
    print_summary(plan, summary)
    assert "border of the crop" not in capsys.readouterr().out


def test_markers_without_the_count_are_read(tmp_path: Path) -> None:
    """As those that were written before there was one."""
    plan = run_cut(tmp_path, "crop")
    tree = json.loads(plan.output.get("0_stats.json"))
    del tree["cut_masks"], tree["digest"]
    assert ShardStats.from_json(json.dumps(tree).encode()).cut_masks == 0
