"""The costs of edits that an output records."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from pipeline.plan.plan import Plan
from pipeline.sizing.costs import COSTS_FILE, Costs, estimated_edits, known_costs
from tests.fake_job import fake_plan, run_fake
from tests.samples import raw_sample, write_shard


@pytest.fixture
def plan(tmp_path: Path) -> Plan:
    """Four shards of three edits: two are published, the third has one of two parts staged."""
    for number in range(4):
        samples = [raw_sample("a", ["1", "2"], seed=number), raw_sample("b", ["3"], seed=number)]
        write_shard(tmp_path / f"in/{number}.tar", samples)
    plan = run_fake(fake_plan(f"{tmp_path}/in/*.tar", f"{tmp_path}/out"))
    for name in ("2", "3"):
        for suffix in ("_stats.json", ".tar", ".parquet"):
            plan.output.delete(f"{name}{suffix}")
    plan.output.put("_parts/2/00000-of-00002.arrow", b"a part")
    return fake_plan(f"{tmp_path}/in/*.tar", f"{tmp_path}/out")


def seconds_of(plan: Plan, step: str) -> float:
    markers = [json.loads(plan.output.get(f"{name}_stats.json")) for name in plan.published]
    return float(sum(marker["seconds"][step] for marker in markers))


def test_a_resumed_run_needs_no_calibration(plan: Plan) -> None:
    """Its costs are the markers' seconds divided by their edits."""
    costs = known_costs(plan)
    assert costs is not None
    assert (costs.source, costs.edits) == ("markers", 6)
    assert costs.seconds["decode"] == pytest.approx(seconds_of(plan, "decode") / 6)
    assert costs.seconds["read"] == pytest.approx(seconds_of(plan, "read") / 6)


def test_the_edits_left_are_estimated_from_shard_sizes(plan: Plan) -> None:
    """Three edits per shard as in the published ones, minus the two of the staged part."""
    costs = known_costs(plan)
    assert costs is not None
    assert len(plan.work) == 2
    assert estimated_edits(plan, costs) == 6 - 2
    assert estimated_edits(plan, Costs("evaluations", {})) is None


def test_a_calibration_is_kept_and_preferred_to_markers(plan: Plan) -> None:
    """It has memory and sizes too; an invalid calibration file is ignored."""
    measured = Costs("calibration", {"decode": 1.5}, 8, peak_bytes={"decode": 7}, device="cpu")
    plan.output.put(COSTS_FILE, measured.to_json())
    assert known_costs(plan) == measured
    plan.output.put(COSTS_FILE, b'{"source": 1, "other": 2}')
    again = known_costs(plan)
    assert again is not None
    assert again.source == "markers"


def test_a_new_output_has_no_costs(tmp_path: Path) -> None:
    """Then the plan calibrates, or counts network evaluations."""
    write_shard(tmp_path / "in/0.tar", [raw_sample("a", ["1"])])
    assert known_costs(fake_plan(f"{tmp_path}/in/*.tar", f"{tmp_path}/out")) is None
