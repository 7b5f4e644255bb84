"""How many rows a network takes at once, and what happens when they do not fit into memory."""

from __future__ import annotations

import gc
from collections.abc import Callable
from typing import TypeVar

import torch

from pipeline.process.heartbeat import heartbeat

Result = TypeVar("Result")

# What an allocator says where it raises a plain RuntimeError: torch's own for the CPU, CUDA's
# runtime, and the libraries above it.
MESSAGES = (
    "DefaultCPUAllocator: can't allocate memory",
    "DefaultCPUAllocator: not enough memory",
    "CUDA error: out of memory",
    "CUBLAS_STATUS_ALLOC_FAILED",
    "CUDNN_STATUS_ALLOC_FAILED",
)


class OutOfMemory(RuntimeError):
    """Not even a single row fits into memory."""


class MicroBatch:
    """A number of rows, halved when the memory does not suffice and restored for the next part.

    One object is shared by all networks of a stage: the UNet, the text encoder and the VAE.
    """

    def __init__(self, size: int, *, static: bool = False) -> None:
        """
        Args:
            size: rows at most.
            static: few shapes instead of even ones, for a network that is compiled for each:
                whole micro-batches, and a tail that ``padded`` says how to fill up.
        """
        self.configured = self.size = size
        self.static = static
        self.halvings = 0  # since ``restore``

    def restore(self) -> None:
        """Back to the configured size: what one part could not hold says nothing of the next."""
        self.size, self.halvings = self.configured, 0

    def padded(self, num_rows: int) -> int:
        """How many rows a call of so many is to have: as many, or the next power of two."""
        if not self.static:
            return num_rows
        return min(self.size, 1 << (num_rows - 1).bit_length())

    def over(
        self, num_rows: int, compute: Callable[[slice], Result], *, weight: int = 1
    ) -> list[Result]:
        """Calls ``compute`` for consecutive rows, at most ``size`` at a time.

        Rows are shared out evenly (33 rows at size 32 go as 17 and 16), so that a part of a given
        composition always gives the network the same shapes. Rows that run out of memory are tried
        again at half the size, and so is what follows them; what is done stays as it is.

        Args:
            num_rows: in all, at least 1.
            compute: the result for some of the rows.
            weight: what a row counts as, where the network is given several for it at once.

        Raises:
            OutOfMemory: one row alone does not fit.
        """
        results: list[Result] = []
        start = 0
        while start < num_rows:
            left = num_rows - start
            most = max(1, self.size // weight)
            num_calls = -(-left // most)
            rows_now = min(left, most) if self.static else -(-left // num_calls)
            rows = slice(start, start + rows_now)
            reason = None
            try:
                results.append(compute(rows))
            except Exception as error:
                if not is_out_of_memory(error):
                    raise
                reason = first_line(error)
            heartbeat()
            if reason is None:
                start = rows.stop
            else:  # the error is gone, and with it the frames that held on to tensors
                self._halve(reason, weight)
        return results

    def _halve(self, reason: str, weight: int) -> None:
        release_memory()
        if self.size < 2 * weight:
            raise OutOfMemory(
                f"one row at a time is too much (micro_batch {self.configured}, halved "
                f"{self.halvings} times): {reason}"
            )
        self.size //= 2
        self.halvings += 1


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an exception says that the memory of the device or of the host did not suffice."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError | OutOfMemory):
        return True
    return isinstance(error, RuntimeError) and any(words in str(error) for words in MESSAGES)


def first_line(error: BaseException) -> str:
    """What an error says, without the allocator's statistics."""
    return (str(error).strip() or type(error).__name__).splitlines()[0][:200]


def release_memory() -> None:
    """Gives back what is unused: cycles that hold tensors, and the cache of CUDA's allocator."""
    gc.collect()
    if torch.cuda.is_initialized():
        torch.cuda.empty_cache()
