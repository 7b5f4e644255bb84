"""How torch computes: device, memory format, and the switches that make results reproducible."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

import torch


def device_kind(device: torch.device) -> str:
    """The kind of device, "cpu" or a GPU's name. Equal output bytes are promised per kind."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type


def memory_format_for(device: str, dtype: torch.dtype, *, compiled: bool) -> torch.memory_format:
    """The memory format of convolutions: channels last, except in half precision on a CPU.

    In that case torch 2.13's GroupNorm is a slow loop over channels last: 3.8 instead of 3.0 ms
    per row in the bundled model's UNet in bfloat16. Compiled code has its own norm and is faster
    with channels last.
    """
    if device == "cpu" and dtype != torch.float32 and not compiled:
        return torch.contiguous_format
    return torch.channels_last


def device_fault(device: str) -> str | None:
    """Why this process can no longer compute on its device, or None if it can.

    After some errors (an illegal access, a lost GPU) every later CUDA call fails too, until the
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
    """Selects deterministic algorithms for the whole process."""
    # cuBLAS needs a fixed workspace, which must be set before its first use
    # (docs.nvidia.com/cuda/cublas, "Results reproducibility").
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.use_deterministic_algorithms(True)
    # otherwise torch would fill every new tensor before it is written
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    torch.backends.cudnn.benchmark = False
    torch.backends.cudnn.allow_tf32 = False
    torch.backends.cuda.matmul.allow_tf32 = False


@contextmanager
def set_tf32(allowed: bool) -> Iterator[None]:
    """Lets, or does not let, a GPU compute float32 products in TF32 inside the context.

    Not for the whole process: in layout ``fused`` the scorers share it, and must give what they
    give in a process of their own. On a CPU nothing reads these switches.
    """
    matmul, cudnn = torch.backends.cuda.matmul, torch.backends.cudnn
    before = matmul.allow_tf32, cudnn.allow_tf32
    matmul.allow_tf32 = cudnn.allow_tf32 = allowed
    try:
        yield
    finally:
        matmul.allow_tf32, cudnn.allow_tf32 = before
