"""How torch computes: threads, and the switches that keep results the same from run to run."""

from __future__ import annotations

import os

import torch


def device_kind(device: torch.device) -> str:
    """The kind of device, e.g. "cpu" or a GPU's name: equal bytes are promised on one kind."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type


def memory_format_for(device: str, dtype: torch.dtype, *, compiled: bool) -> torch.memory_format:
    """How convolutions lie in memory: channels last, but not in half precision on a CPU.

    There torch 2.13's GroupNorm is a slow loop over channels last: 3.8 against 3.0 ms a row of the
    bundled model's UNet in bfloat16. Compiled, the norm is another one, and channels last win.
    """
    if device == "cpu" and dtype != torch.float32 and not compiled:
        return torch.contiguous_format
    return torch.channels_last


def device_fault(device: str) -> str | None:
    """Why this process can compute nothing more on its device; None where it can.

    After some errors (an illegal access, a lost GPU) every later call of CUDA fails too, until the
    process ends.

    Args:
        device: "cpu" or "cuda".
    """
    if device == "cuda":
        try:
            torch.cuda.synchronize()
        except RuntimeError as error:  # torch.AcceleratorError is one
            return str(error).partition("\n")[0]
    return None


def make_deterministic() -> None:
    """Chooses, for the whole process, the algorithms that give the same bits every time."""
    # cuBLAS needs a fixed workspace, named before its first use
    # (docs.nvidia.com/cuda/cublas, "Results reproducibility").
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.use_deterministic_algorithms(True)
    # else every new tensor would be written twice
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    torch.backends.cudnn.benchmark = False
    torch.backends.cudnn.allow_tf32 = False
    torch.backends.cuda.matmul.allow_tf32 = False
