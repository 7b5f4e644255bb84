"""Describes the machine of a benchmark: hardware, versions, commit, matrix rate, memory peak."""

from __future__ import annotations

import contextlib
import importlib.metadata
import os
import platform
import subprocess
import time
from pathlib import Path
from typing import Any

import torch
from torch import nn

from pipeline import __version__
from pipeline.models.cpu_kernels import use_onednn
from pipeline.models.precision import computes_bfloat16

LIBRARIES = ("torch", "diffusers", "transformers", "numpy", "ray")
MATRIX_SIDE = {"cpu": 2048, "cuda": 8192}  # larger matrices are not faster
MATRIX_REPEATS = {"cpu": 10, "cuda": 100}  # a GPU raises its clocks only under load


def describe_machine(device: str, threads: int) -> dict[str, Any]:
    """Hardware, operating system and versions, JSON-able."""
    found: dict[str, Any] = {
        "cpu": _cpu_model(),
        "cpu_cores": os.cpu_count(),
        "cpu_bf16": computes_bfloat16("cpu"),
        "memory_bytes": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        "system": platform.platform(),
        "python": platform.python_version(),
        "versions": {name: _version(name) for name in LIBRARIES},
        "overpaint": __version__,
        "commit": commit(),
        "device": device,
    }
    if device == "cuda":
        properties = torch.cuda.get_device_properties(0)
        found |= {
            "gpu": properties.name,
            "gpu_memory_bytes": properties.total_memory,
            "cuda": torch.version.cuda,
        }
    else:
        found["threads"] = threads
    return found


def commit() -> str | None:
    """The checked-out commit, with "+" if files differ from it; None outside a checkout."""
    folder = Path(__file__).resolve().parents[2]
    try:
        head = _git(folder, "rev-parse", "HEAD")
        changed = _git(folder, "status", "--porcelain", "--untracked-files=no", ".")
    except (OSError, subprocess.CalledProcessError):
        return None
    return head + ("+" if changed else "")


@torch.inference_mode()
def matrix_rate(device: str, dtype: torch.dtype) -> float:
    """The best rate of a square matrix product, in FLOP/s; utilization is relative to it.

    It is measured with the same kernels that the networks use: on a CPU in float32, oneDNN.
    """
    side = MATRIX_SIDE[device]
    layer = nn.Linear(side, side, bias=False, device=device, dtype=dtype)
    if device == "cpu" and dtype == torch.float32:
        use_onednn(layer)
    rows = torch.randn(side, side, device=device).to(dtype)
    best_s = float("inf")
    for _ in range(MATRIX_REPEATS[device]):
        synchronize(device)
        start = time.perf_counter()
        layer(rows)
        synchronize(device)
        best_s = min(best_s, time.perf_counter() - start)
    return 2.0 * side**3 / best_s


def synchronize(device: str) -> None:
    """Waits until the GPU has finished."""
    if device == "cuda":
        torch.cuda.synchronize()


def reset_memory_peak(device: str) -> None:
    """Resets the memory peak of the GPU, or of this process (on Linux only)."""
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
        return
    with contextlib.suppress(OSError):  # without a reset the peak is that of the whole process
        Path("/proc/self/clear_refs").write_text("5")


def memory_peak_bytes(device: str) -> int | None:
    """The peak since the last reset: of the GPU, or of this process; None if it is unknown."""
    if device == "cuda":
        return torch.cuda.max_memory_allocated()
    try:
        status = Path("/proc/self/status").read_text()
    except OSError:
        return None
    lines = [line for line in status.splitlines() if line.startswith("VmHWM:")]
    return int(lines[0].split()[1]) * 1024 if lines else None


def local_device(name: str) -> str:
    """The resolved ``model.device`` on this machine; a benchmark does not use Ray."""
    if name != "auto":
        return name
    return "cuda" if torch.cuda.is_available() else "cpu"


def _version(library: str) -> str | None:
    """The installed version; None if it is not installed, since a benchmark does not need Ray."""
    try:
        return importlib.metadata.version(library)
    except importlib.metadata.PackageNotFoundError:
        return None


def _git(folder: Path, *arguments: str) -> str:
    done = subprocess.run(
        ["git", "-C", str(folder), *arguments], capture_output=True, text=True, check=True
    )
    return done.stdout.strip()


def _cpu_info(name: str) -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return ""
    return next((line.partition(":")[2].strip() for line in lines if line.startswith(name)), "")


def _cpu_model() -> str:
    return _cpu_info("model name") or platform.processor() or platform.machine()
