"""Processes that compute on a GPU set up torch's allocator before they import torch."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
# Loads the stages of a pool as every worker and the local loop do, up to where torch is imported.
LOADS = """
import os, sys

class AtTorch:
    def find_spec(self, name, *rest):
        if name == "torch":
            print(*sorted(f"{k}={v}" for k, v in os.environ.items() if "ALLOC_CONF" in k))
            sys.exit()

sys.meta_path.insert(0, AtTorch())
from pipeline.config.load import load_config
from pipeline.execution.operators import _load
from pipeline.plan.code import code_hash
assert "torch" not in sys.modules
_load(load_config("demo"), sys.argv[1], code_hash(), "fused")
"""
NAMES = ("PYTORCH_ALLOC_CONF", "PYTORCH_CUDA_ALLOC_CONF", "PYTORCH_HIP_ALLOC_CONF")


@pytest.mark.parametrize(
    ("device", "given", "seen"),
    [
        ("cuda", {}, "PYTORCH_ALLOC_CONF=expandable_segments:True"),
        ("cpu", {}, ""),
        *(
            ("cuda", {name: "max_split_size_mb:64"}, f"{name}=max_split_size_mb:64")
            for name in NAMES
        ),
    ],
)
def test_segments_grow_on_a_gpu_unless_the_user_sets_up_the_allocator(
    device: str, given: dict[str, str], seen: str
) -> None:
    """Under any name that torch knows; what torch will read at its import is compared."""
    kept = {key: value for key, value in os.environ.items() if key not in NAMES}
    done = subprocess.run(
        [sys.executable, "-c", LOADS, device],
        env=kept | given | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.strip() == seen
