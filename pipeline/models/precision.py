"""What ``model.dtype: auto`` means on a device. Does not import torch for a CPU."""

from __future__ import annotations

from functools import cache
from pathlib import Path

from pipeline.process.allocator import use_expandable_segments

CPU_FLAGS = frozenset({"avx512_bf16", "amx_bf16"})  # either multiplies bfloat16 in hardware
# Ray's names of NVIDIA's GPUs before Ampere, which have no bfloat16 units.
WITHOUT_BFLOAT16 = frozenset({"V100", "P100", "T4", "P4", "K80"})


def resolved_dtype(dtype: str, device: str, *, bfloat16: bool | None = None) -> str:
    """The dtype to load a model in.

    Args:
        dtype: ``model.dtype``.
        device: "cpu" or "cuda".
        bfloat16: whether the device multiplies bfloat16 in hardware; None: this machine's is asked.

    Returns:
        ``dtype``; for "auto" bfloat16 where the hardware has it, else float32. Never float16, in
        which some models overflow.
    """
    if dtype != "auto":
        return dtype
    if bfloat16 is None:
        bfloat16 = computes_bfloat16(device)
    return "bfloat16" if bfloat16 else "float32"


def computes_bfloat16(device: str) -> bool:
    """Whether this machine's device multiplies bfloat16 in hardware.

    True for GPUs since Ampere, and for x86 CPUs with AVX-512 BF16 or AMX. Other CPUs compute
    bfloat16 in float32 and convert, which is slower than float32.
    """
    if device == "cuda":
        use_expandable_segments()  # before torch is imported: this process may load networks next
        import torch  # takes a second to import

        if not torch.cuda.is_available():
            return True  # the GPUs are elsewhere: those of today have it
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    return bool(CPU_FLAGS & cpu_flags())


@cache
def cpu_flags() -> frozenset[str]:
    """The features of the CPU that Linux lists; none on other systems."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return frozenset()
    flags = next((line for line in lines if line.startswith("flags")), "")
    return frozenset(flags.partition(":")[2].split())
