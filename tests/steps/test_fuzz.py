"""10,000 mutated samples: each becomes rows with a status and a reason, whatever its bytes are."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
NUM_SAMPLES = 10_000
MAX_GROWN_BYTES = 64 * 2**20  # from the 500th sample to the last: no memory is kept
MAX_PEAK_BYTES = 256 * 2**20  # for a shard of 50 samples, with images of at most 1e6 pixels


@pytest.mark.slow
def test_10_000_mutated_samples_become_rows_in_bounded_memory() -> None:
    """There is no uncaught error, no sample without a row, and no failure without a reason."""
    command = [sys.executable, "-m", "tests.steps.fuzz_samples", str(NUM_SAMPLES)]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=550)
    assert result.returncode == 0, result.stderr[-4000:]
    found = json.loads(result.stdout)
    assert found["samples"] > 0.97 * NUM_SAMPLES  # webdataset finds no key in some names
    assert found["rows"] > found["samples"]
    assert found["grown_bytes"] < MAX_GROWN_BYTES
    assert found["peak_bytes"] < MAX_PEAK_BYTES
    kinds = {"edited", "prepare: DamagedImage", "prepare: TooLarge", "prepare: BadMask"}
    kinds |= {f"read: {kind}" for kind in ("BadJson", "BadText", "NoImage", "DuplicateKey")}
    assert kinds <= found["outcomes"].keys()
