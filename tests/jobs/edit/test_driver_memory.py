"""The driver's memory does not grow with the length of a run."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]


@pytest.mark.slow
@pytest.mark.sweep
@pytest.mark.timeout(1200)
@pytest.mark.parametrize(("num_parts", "num_waves", "actors"), [(300, 2, 1), (10_000, 5, 3)])
def test_driver_memory_stays_flat_over_many_parts(
    num_parts: int, num_waves: int, actors: int
) -> None:
    """With no-op stages in waves it grows at most 1.2 times after the first tenth."""
    command = [sys.executable, "-m", "infra.benchmarks.driver_memory", "--actors", str(actors)]
    command += ["--parts", str(num_parts), "--waves", str(num_waves)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout[done.stdout.index("{") :])
    assert (report["parts"], report["waves"]) == (num_parts, num_waves)
    assert report["ratio"] <= 1.2, report
