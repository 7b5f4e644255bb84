"""Processes that compute on a GPU set up torch's allocator before they import torch."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
# Up to where torch is imported; {} loads stages.
LOADS = """
import os, sys

class AtTorch:
    def find_spec(self, name, *rest):
        if name == "torch":
            print(*sorted(f"{k}={v}" for k, v in os.environ.items() if "ALLOC_CONF" in k))
            sys.exit()

sys.meta_path.insert(0, AtTorch())
{}
"""
# As every worker and the local loop do.
OF_A_POOL = """
from pipeline.config.load import load_config
from pipeline.execution.operators import _load
from pipeline.plan.code import code_hash
assert "torch" not in sys.modules
_load(load_config("demo"), "DEVICE", code_hash(), "fused")
"""
OF_AN_EDITOR = """
from pipeline.editor import Editor
assert "torch" not in sys.modules
Editor("bundled", ["model.device=DEVICE"])
"""
# As commands that compute in their own process, where a machine has a GPU.
OF_A_COMMAND = """
from jobs.edit import devices
from pipeline.config.load import load_config
assert "torch" not in sys.modules
devices._has_cuda_driver = lambda: True
devices.device_of(load_config("demo", ["model.device=DEVICE"]))
"""
NAMES = ("PYTORCH_ALLOC_CONF", "PYTORCH_CUDA_ALLOC_CONF", "PYTORCH_HIP_ALLOC_CONF")


@pytest.mark.parametrize(
    ("loads", "device", "given", "seen"),
    [
        (OF_A_POOL, "cuda", {}, "PYTORCH_ALLOC_CONF=expandable_segments:True"),
        (OF_A_POOL, "cpu", {}, ""),
        *(
            (OF_A_POOL, "cuda", {name: "max_split_size_mb:64"}, f"{name}=max_split_size_mb:64")
            for name in NAMES
        ),
        (OF_AN_EDITOR, "auto", {}, "PYTORCH_ALLOC_CONF=expandable_segments:True"),
        (OF_AN_EDITOR, "cuda", {}, "PYTORCH_ALLOC_CONF=expandable_segments:True"),
        (OF_AN_EDITOR, "cpu", {}, ""),
        (OF_A_COMMAND, "auto", {}, "PYTORCH_ALLOC_CONF=expandable_segments:True"),
    ],
)
def test_segments_grow_on_a_gpu_unless_the_user_sets_up_the_allocator(
    loads: str, device: str, given: dict[str, str], seen: str
) -> None:
    """Under any name that torch knows; what torch will read at its import is compared."""
    kept = {key: value for key, value in os.environ.items() if key not in NAMES}
    done = subprocess.run(
        [sys.executable, "-c", LOADS.replace("{}", loads.replace("DEVICE", device), 1)],
        env=kept | given | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.strip() == seen
