"""A run with layout and pool sizes auto, on Ray."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.jobs.conftest import Job

pytestmark = pytest.mark.slow
AUTO = [f"stages.{name}.actors=auto" for name in ("mask", "encode", "decode")]


def test_a_planned_run_writes_the_same_bytes(
    job: Job,
    plain: Path,
    digests: Callable[[Path], dict[str, str]],
    tmp_path: Path,
    ray_address: str,
) -> None:
    """Layout and sizes are found for two cores; the summary compares estimate and actual rate."""
    output = tmp_path / "out"
    done = job.run(
        output, "run.layout=auto", *AUTO, "plan.calibrate=2", f"run.address={ray_address}"
    )
    assert done.returncode == 0, done.stderr + done.stdout
    assert digests(output) == digests(plain)
    assert "expected: " in done.stdout
    summary = json.loads((output / "_run/summary.json").read_text())
    assert summary["plan"]["ratio"] > 0
    sizes = summary["plan"]["actors"]
    assert all(1 <= size <= 6 for size in sizes.values())
    config = (output / "_run/config.yaml").read_text()
    assert f"layout: {summary['plan']['layout']}" in config
    assert (output / "_run/costs.json").exists()
