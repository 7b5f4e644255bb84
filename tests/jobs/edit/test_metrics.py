"""The metrics of workers: bytes of storage traffic, GPU memory of stages."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from unittest import mock

import pytest

from jobs.edit import metrics
from jobs.edit.part_runner import PartRunner
from jobs.supervise.watchdog import Guard
from pipeline.execution.operators import Operator
from pipeline.storage.traffic import take_traffic
from tests.committing import invert
from tests.fake_job import fake_plan
from tests.samples import raw_sample, write_shard


class Told:
    """Counters and gauges that record their values by label."""

    def __init__(self) -> None:
        self.values: dict[str, float] = {}

    def inc(self, amount: float, labels: dict[str, str] | None = None) -> None:
        label = next(iter((labels or {}).values()), "")
        self.values[label] = self.values.get(label, 0.0) + amount

    def set(self, value: float, labels: dict[str, str]) -> None:
        self.values[next(iter(labels.values()))] = value


@pytest.fixture
def told() -> Iterator[tuple[Told, Told, Told]]:
    """Stand-ins for the metrics of bytes, retries and GPU memory."""
    take_traffic()
    made = (Told(), Told(), Told())
    with mock.patch("jobs.edit.metrics._worker_metrics", return_value=made):
        yield made


def test_the_retry_worker_counts_its_bytes(tmp_path: Path, told: tuple[Told, Told, Told]) -> None:
    """It reads a shard and stages a part, like the operators of the stream."""
    write_shard(tmp_path / "in/0.tar", [raw_sample("a", ["a cat"])])
    plan = fake_plan(f"{tmp_path}/in/*.tar", f"{tmp_path}/out")
    runner = PartRunner(plan, Guard(mock.MagicMock(), 60.0))
    runner.operators = [Operator("decode", invert)]
    (work,) = plan.work
    runner.open(work)
    assert runner.next() == 0
    num_bytes, _, _ = told
    assert num_bytes.values == {"in": work.shard.size}
    assert runner.compute({}).published
    assert num_bytes.values["out"] > 0
    assert not +take_traffic()


def test_each_stage_has_its_own_memory_peak(
    monkeypatch: pytest.MonkeyPatch, told: tuple[Told, Told, Told]
) -> None:
    """In layout fused one process runs all stages; each gauge shows the peak of its stage."""
    cuda = SimpleNamespace(peak=0, is_available=lambda: True)
    cuda.max_memory_allocated = lambda: cuda.peak
    cuda.reset_peak_memory_stats = lambda: setattr(cuda, "peak", 1)
    monkeypatch.setitem(sys.modules, "torch", SimpleNamespace(cuda=cuda))
    monkeypatch.setattr(metrics, "_gpu_peaks", Counter())
    for stage, used in (("mask", 5), ("decode", 9), ("mask", 4), ("decode", 7)):
        cuda.peak = max(cuda.peak, used)
        metrics.tell_gpu_memory(stage)
    assert told[2].values == {"mask": 5, "decode": 9}
