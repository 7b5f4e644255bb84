"""A few edits go through every step, and leave nothing but what they took."""

from __future__ import annotations

from pathlib import Path

import pytest

from jobs.edit.calibrate import _Calibrator, _edits_of_one_size, num_edits
from pipeline.config.config import Config
from pipeline.config.load import load_config
from pipeline.plan.plan import make_plan
from pipeline.sizing.costs import Costs
from tests.jobs.conftest import Job
from tests.parts import make_part, make_prepared


def config_of(job: Job, output: Path, *more: str) -> Config:
    return load_config(job.folder / "job.yaml", [f"output.path={output}", *more])


@pytest.fixture(scope="module")
def measured(job: Job, tmp_path_factory: pytest.TempPathFactory) -> tuple[Costs, Path]:
    output = tmp_path_factory.mktemp("calibrate") / "out"
    # two edits: all of the first sample, and the second one cut
    plan = make_plan(config_of(job, output, "plan.calibrate=2"), "cpu")
    # Ray calls it in an actor of its own; it needs none.
    return _Calibrator().measure(plan, plan.work[0]), output


def test_every_step_is_measured_on_as_many_edits_as_asked_for(
    measured: tuple[Costs, Path],
) -> None:
    """Seconds, bytes of a part and memory; the shard's edits over its bytes."""
    costs, _ = measured
    assert (costs.source, costs.edits, costs.device) == ("calibration", 2, "cpu")
    assert set(costs.seconds) == {"read", "prepare", "mask", "encode", "decode", "finish"}
    assert all(seconds > 0 for seconds in costs.seconds.values())
    assert set(costs.edit_bytes) == {"prepare", "mask", "encode", "decode"}
    assert costs.edit_bytes["encode"] > costs.edit_bytes["decode"] > 0
    assert costs.peak_bytes["decode"] >= costs.weights_bytes > 0
    assert costs.rows == {"mask": 2, "encode": 2, "decode": 2}
    assert costs.load_s > 0
    assert costs.edits_per_byte > 0


def test_a_calibration_writes_nothing(measured: tuple[Costs, Path]) -> None:
    """The output is not even there."""
    _, output = measured
    assert not output.exists()


def test_rows_at_once_are_of_one_size() -> None:
    """Memory of a row is that of the largest batch, and a batch has images of one size."""
    images = [make_prepared(0, "a", "b"), make_prepared(1, size=16), make_prepared(2, "c")]
    images.append(make_prepared(3, size=16))
    images[3].image = None  # it could not be decoded
    assert _edits_of_one_size(make_part(*images)) == 3
    assert _edits_of_one_size(make_part(images[1])) == 1


def test_a_calibration_is_no_larger_than_a_part(job: Job, tmp_path: Path) -> None:
    """auto: a few on a CPU, a micro-batch on a GPU; the job's parts have 4 edits."""
    small = config_of(job, tmp_path, "plan.calibrate=100")
    auto = config_of(job, tmp_path, "run.part_size=64")
    assert num_edits(small, "cpu") == 4
    assert (num_edits(auto, "cpu"), num_edits(auto, "cuda")) == (8, 32)
