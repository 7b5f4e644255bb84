"""Mutated samples: each becomes rows with a status and a reason, whatever its bytes are."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
MAX_GROWN_BYTES = 64 * 2**20  # from the 500th sample to the last: no memory is kept
MAX_PEAK_BYTES = 256 * 2**20  # a shard of 50 samples, images of a million pixels at most


@pytest.mark.slow
@pytest.mark.parametrize(
    ("num_samples", "seed"),  # 1,000 samples of seed 0 hold no duplicate key
    [(1000, 2), pytest.param(10_000, 0, marks=pytest.mark.sweep)],
)
def test_mutated_samples_are_rows_and_memory_is_bounded(num_samples: int, seed: int) -> None:
    """No uncaught error, no sample without a row, no row without a status and its reason."""
    command = [sys.executable, "-m", "tests.steps.fuzz_samples", str(num_samples), str(seed)]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=550)
    assert result.returncode == 0, result.stderr[-4000:]
    found = json.loads(result.stdout)
    assert found["samples"] > 0.97 * num_samples  # webdataset finds no key in some names
    assert found["rows"] > found["samples"]
    assert found["grown_bytes"] < MAX_GROWN_BYTES
    assert found["peak_bytes"] < MAX_PEAK_BYTES
    kinds = {"edited", "prepare: DamagedImage", "prepare: TooLarge", "prepare: BadMask"}
    kinds |= {f"read: {kind}" for kind in ("BadJson", "BadText", "NoImage", "DuplicateKey")}
    assert kinds <= found["outcomes"].keys()
