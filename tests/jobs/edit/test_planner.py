"""The plan of a run, as made by ``overpaint plan`` and ``overpaint edit``. No Ray is started."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest import mock

import pytest

from jobs.edit import driver as edit_module
from jobs.edit import planner, ray_start, waves
from jobs.edit.calibrate import CalibrationError
from jobs.edit.planner import planned
from jobs.edit.waves import SizedPlan
from jobs.logs import use_format
from pipeline.config.config import Config
from pipeline.config.load import ConfigError
from pipeline.plan.plan import Plan
from pipeline.sizing.costs import COSTS_FILE, Costs
from pipeline.sizing.estimate import Estimate, estimate
from pipeline.sizing.pools import Node
from tests.fake_job import fake_plan, run_fake
from tests.samples import raw_sample, write_shard

MEASURED = Costs(
    "calibration",
    {"mask": 0.1, "encode": 0.2, "decode": 0.5, "finish": 0.2},
    edits=3,
    edits_per_byte=1e-3,
    load_s=2.0,
)
AUTO = {name: {"actors": "auto"} for name in ("mask", "encode", "decode")}
SET = {"stages": {name: {"actors": 1} for name in AUTO}, "run": {"layout": "pools"}}


@pytest.fixture
def measured(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """A machine with two cores and a stand-in for the calibration; lists its calls."""
    calls: list[str] = []

    def calibrate(plan: Plan) -> Costs:
        calls.append(plan.work[0].shard.name)
        return MEASURED

    monkeypatch.setattr(planner, "calibrate", calibrate)
    monkeypatch.setattr(planner, "check_pools", lambda config, device: [Node(2, 0, 8e9, 1e9)])
    return calls


def plan_of(folder: Path, **sections: Any) -> Plan:
    write_shard(folder / "in/0.tar", [raw_sample("a", ["1", "2"]), raw_sample("b", ["3"])])
    return fake_plan(f"{folder}/in/*.tar", f"{folder}/out", **sections)


def test_a_run_calibrates_only_if_a_size_is_auto(measured: list[str], tmp_path: Path) -> None:
    """``overpaint plan`` always does; plan.calibrate forces it by a number, forbids it by never."""
    for sections, measure, calls in (
        (SET, False, 0),
        (SET, True, 1),
        ({}, False, 1),
        ({"run": {"layout": "pools"}}, False, 1),
        (SET | {"plan": {"calibrate": 5}}, False, 1),
        ({"plan": {"calibrate": "never"}, "stages": AUTO}, True, 0),
    ):
        measured.clear()
        planned(plan_of(tmp_path, **sections), measure=measure, keep=False)
        assert len(measured) == calls, sections


def test_a_run_that_is_hardly_longer_than_a_calibration_has_none(
    measured: list[str], tmp_path: Path
) -> None:
    """Two edits on one of two cores are a twentieth of 80; a number of one's own is kept."""
    plan = plan_of(tmp_path, stages=AUTO)
    size = plan.work[0].shard.size
    for edits, calls in ((79, 0), (80, 1)):
        measured.clear()
        sizes = planned(plan, measure=False, keep=False, edits_per_byte=edits / size)
        assert len(measured) == calls, edits
    assert sizes.expected.images_per_s == pytest.approx(2.0)
    wanted = plan_of(tmp_path, stages=AUTO, plan={"calibrate": 2})
    planned(wanted, measure=False, keep=False, edits_per_byte=3 / size)
    planned(plan, measure=True, keep=False, edits_per_byte=3 / size)
    assert len(measured) == 3


def test_auto_sizes_are_found_and_set_sizes_are_kept(measured: list[str], tmp_path: Path) -> None:
    """Two cores and 1 s per edit allow 2 edits/s, for which one decode actor is enough."""
    sections = {"stages": AUTO | {"mask": {"actors": 3}}, "run": {"layout": "pools"}}
    sizes = planned(plan_of(tmp_path, **sections), measure=False, keep=False)
    stages = sizes.plan.config.stages
    assert (stages.mask.actors, stages.decode.actors) == (3, 1)
    assert sizes.expected.images_per_s == pytest.approx(2.0)


def test_a_calibration_is_kept_for_resumed_runs(measured: list[str], tmp_path: Path) -> None:
    """A run keeps it in the output; ``overpaint plan`` does not."""
    plan = plan_of(tmp_path, stages=AUTO)
    planned(plan, measure=True, keep=False)
    assert not plan.output.exists(COSTS_FILE)
    planned(plan, measure=True, keep=True)
    planned(plan, measure=True, keep=True)
    assert len(measured) == 2
    assert Costs.from_json(plan.output.get(COSTS_FILE)) == MEASURED


def test_the_plan_is_printed_with_hours_and_money(
    measured: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The estimate is printed before the run starts."""
    plan = plan_of(tmp_path, report={"price_per_device_hour": 3600})
    planned(plan, measure=True, keep=False)
    said = capsys.readouterr().out
    assert "expected: 2 images/s, about" in said
    assert "actor-hours" in said
    assert "USD" in said
    assert "a worker without a heartbeat for 600 s is killed" in said


def test_the_plan_says_how_long_waves_are(
    measured: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Where there are several: until the next one begins, nodes that join do nothing."""
    planned(plan_of(tmp_path), measure=True, keep=False)
    assert "waves" not in capsys.readouterr().out
    write_shard(tmp_path / "in/1.tar", [raw_sample("a"), raw_sample("b")])
    write_shard(tmp_path / "in/2.tar", [raw_sample("c")])
    planned(plan_of(tmp_path, run={"shards_per_wave": 2}), measure=True, keep=False)
    said = capsys.readouterr().out
    assert re.search(r"2 waves of about 2 shards, \d+ s each: nodes that join", said), said


def test_with_json_logs_the_plan_is_one_line(
    measured: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Nothing is on stdout."""
    plan = plan_of(tmp_path)
    use_format("json")
    try:
        planned(plan, measure=True, keep=False)
    finally:
        use_format("text")
    said = capsys.readouterr()
    assert said.out == ""
    (line,) = [line for text in said.err.splitlines() if "plan" in (line := json.loads(text))]
    assert line["message"] == "plan"
    assert line["plan"]["images_per_s"] == pytest.approx(2.0)
    assert line["costs"] == "calibration"


def test_a_failed_calibration_falls_back_to_counted_costs(
    measured: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """A warning gives the reason."""

    def fails(plan: Plan) -> Costs:
        raise CalibrationError("OSError: no such model")

    monkeypatch.setattr(planner, "calibrate", fails)
    sizes = planned(plan_of(tmp_path, stages=AUTO), measure=False, keep=True)
    assert sizes.expected.images_per_s is None
    assert sizes.plan.config.stages.decode.actors == 2  # 20, 40 and 80 evaluations on two cores
    said = capsys.readouterr()
    assert "warning: the calibration failed: OSError: no such model" in said.err
    assert "network evaluations" in said.out


def test_embedded_guidance_counts_as_one_evaluation_a_step(
    measured: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without a calibration a decode of FLUX.1 costs half of one with two evaluations a step."""
    counts: list[float] = []

    def counting(config: Config, device: str, costs: Costs, *rest: Any) -> Estimate:
        counts.append(costs.seconds["decode"])
        return estimate(config, device, costs, *rest)

    monkeypatch.setattr(waves, "estimate", counting)
    plan = plan_of(tmp_path, plan={"calibrate": "never"})
    for family in ("stable-diffusion", "flux.1"):
        model = replace(plan.model, family=family)
        planned(replace(plan, model=model), measure=False, keep=False)
    assert counts == [80.0, 40.0]


def test_pools_that_do_not_fit_are_an_error(
    measured: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The sizing finds it, even if the first check of the cluster passed."""
    monkeypatch.setattr(planner, "check_pools", lambda config, device: [Node(1)])
    with pytest.raises(ConfigError, match=r"stages: run\.layout=pools: the smallest pools"):
        planned(plan_of(tmp_path, run={"layout": "pools"}), measure=True, keep=False)


def test_a_run_compares_its_rate_with_the_estimate(
    measured: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """In summary.json and the last lines; the config in the output has the resolved sizes."""
    plan = plan_of(tmp_path, stages=AUTO, plan={"calibrate": 3}, run={"layout": "pools"})
    guards: list[float] = []

    def compute(sizes: SizedPlan, *, release: bool) -> tuple[mock.Mock, bool]:
        guards.append(sizes.expected.silence_s)
        run_fake(sizes.plan)
        progress = mock.Mock(images_per_s_after_start=1.5, compilations={})
        progress.counts.total.return_value = 3
        return progress, False

    monkeypatch.setattr(edit_module, "make_plan", lambda *_, **__: plan)
    monkeypatch.setattr(ray_start, "connect", lambda config, verbose: None)
    monkeypatch.setattr(edit_module, "_compute", compute)
    code, _ = edit_module.edit(plan.config)
    assert code == 0
    assert guards == [600.0]
    summary = json.loads(plan.output.get("_run/summary.json"))["plan"]
    assert summary["images_per_s"] == pytest.approx(2.0)
    assert summary["images_per_s_after_start"] == 1.5
    assert summary["ratio"] == pytest.approx(0.75)
    assert "1.5 images/s, 75% of the expected 2" in capsys.readouterr().out
    assert b"actors: auto" not in plan.output.get("_run/config.yaml").split(b"score:")[0]
