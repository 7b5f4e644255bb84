"""What a benchmark ran on: hardware, versions, commit, rate of its matrices, peak of memory."""

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

LIBRARIES = ("torch", "diffusers", "transformers", "numpy", "ray")
MATRIX_SIDE = {"cpu": 2048, "cuda": 8192}  # large enough that the rate no longer grows
MATRIX_REPEATS = {"cpu": 10, "cuda": 100}  # a GPU raises its clocks only under load


def describe_machine(device: str, threads: int) -> dict[str, Any]:
    """Hardware, operating system and versions, as JSON."""
    found: dict[str, Any] = {
        "cpu": _cpu_model(),
        "cpu_cores": os.cpu_count(),
        "cpu_bf16": "avx512_bf16" in _cpu_flags(),
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
    """The commit that is checked out, "+" where files differ from it; None outside a checkout."""
    folder = Path(__file__).resolve().parents[2]
    try:
        head = _git(folder, "rev-parse", "HEAD")
        changed = _git(folder, "status", "--porcelain", "--untracked-files=no", ".")
    except (OSError, subprocess.CalledProcessError):
        return None
    return head + ("+" if changed else "")


@torch.inference_mode()
def matrix_rate(device: str, dtype: torch.dtype) -> float:
    """The best rate of a square matrix product here, in FLOP/s: what utilisation is a share of.

    Multiplied by what multiplies in the networks: on a CPU in float32 that is oneDNN.
    """
    side = MATRIX_SIDE[device]
    layer = nn.Linear(side, side, bias=False, device=device, dtype=dtype)
    if device == "cpu" and dtype == torch.float32:
        use_onednn(layer)
    rows = torch.randn(side, side, device=device).to(dtype)
    best_s = float("inf")
    for _ in range(MATRIX_REPEATS[device]):
        synchronise(device)
        start = time.perf_counter()
        layer(rows)
        synchronise(device)
        best_s = min(best_s, time.perf_counter() - start)
    return 2.0 * side**3 / best_s


def synchronise(device: str) -> None:
    """Waits for what a GPU still computes."""
    if device == "cuda":
        torch.cuda.synchronize()


def reset_memory_peak(device: str) -> None:
    """Starts a new peak: of the GPU, or of this process where the system can (Linux)."""
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
        return
    with contextlib.suppress(OSError):  # then the peak is that since the process started
        Path("/proc/self/clear_refs").write_text("5")


def memory_peak_bytes(device: str) -> int | None:
    """The peak since the last reset; of the whole process on a CPU, None where it is not told."""
    if device == "cuda":
        return torch.cuda.max_memory_allocated()
    try:
        status = Path("/proc/self/status").read_text()
    except OSError:
        return None
    lines = [line for line in status.splitlines() if line.startswith("VmHWM:")]
    return int(lines[0].split()[1]) * 1024 if lines else None


def local_device(name: str) -> str:
    """What ``model.device`` stands for on this machine; a benchmark asks no Ray."""
    if name != "auto":
        return name
    return "cuda" if torch.cuda.is_available() else "cpu"


def _version(library: str) -> str | None:
    """None where it is not installed: a benchmark needs no Ray."""
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


def _cpu_flags() -> list[str]:
    return _cpu_info("flags").split()
