"""How many rows a network takes per call, and smaller calls when memory runs out."""

from __future__ import annotations

import gc
from collections.abc import Callable
from typing import TypeVar

import torch

from pipeline.process.heartbeat import heartbeat

Result = TypeVar("Result")

# Messages of allocators that raise a plain RuntimeError: torch's CPU allocator, the CUDA runtime,
# and the libraries above it.
MESSAGES = (
    "DefaultCPUAllocator: can't allocate memory",
    "DefaultCPUAllocator: not enough memory",
    "CUDA error: out of memory",
    "CUBLAS_STATUS_ALLOC_FAILED",
    "CUBLAS_STATUS_NOT_INITIALIZED",  # cublasCreate, where there is no memory for its workspace
    "CUDNN_STATUS_ALLOC_FAILED",
)


class OutOfMemory(RuntimeError):
    """Memory runs out even for a single row."""


class MicroBatch:
    """The number of rows per network call, halved when memory runs out, restored for each part.

    The network and the text encoder of a stage share one object. The VAE has one of its own, so
    that an image which does not fit there does not make the network's calls smaller.
    """

    def __init__(self, size: int, *, static: bool = False, name: str = "micro_batch") -> None:
        """
        Args:
            size: largest number of rows per call.
            name: of the setting, in messages and notes.
            static: use few distinct sizes, for a network that is compiled for each shape: full
                micro-batches, and a remainder that the caller pads to ``padded`` rows.
        """
        self.configured = self.size = size
        self.static, self.name = static, name
        self.halvings = 0  # since ``restore``

    def restore(self) -> None:
        """Goes back to the configured size, because the next part may fit."""
        self.size, self.halvings = self.configured, 0

    def padded(self, num_rows: int) -> int:
        """The number of rows to pad a call to: the next power of two if static, else no padding."""
        if not self.static:
            return num_rows
        return min(self.size, 1 << (num_rows - 1).bit_length())

    @property
    def row_counts(self) -> list[int]:
        """Every number of rows that a static call may have, the most first."""
        return sorted({self.padded(num_rows) for num_rows in range(1, self.size + 1)}, reverse=True)

    def map(
        self, compute: Callable[[slice], Result], num_rows: int, *, weight: int = 1
    ) -> list[Result]:
        """Calls ``compute`` for consecutive slices of the rows, each of at most ``size`` rows.

        Rows are split evenly (33 rows at size 32 become 17 and 16), so that a given part always
        gives the network the same shapes. When a slice runs out of memory, it and all later ones
        run at half the size; results of earlier slices are kept.

        Args:
            compute: returns the result for a slice of the rows.
            num_rows: total number of rows, at least 1.
            weight: how many rows of the network one row stands for.

        Raises:
            OutOfMemory: a single row does not fit.
        """
        results: list[Result] = []
        start = 0
        while start < num_rows:
            remaining = num_rows - start
            limit = max(1, self.size // weight)
            num_calls = -(-remaining // limit)
            num_now = min(remaining, limit) if self.static else -(-remaining // num_calls)
            rows = slice(start, start + num_now)
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
            else:  # outside the except block: the error no longer keeps frames and tensors alive
                self._halve(reason, weight)
        return results

    def _halve(self, reason: str, weight: int) -> None:
        release_memory()
        if self.size < 2 * weight:
            raise OutOfMemory(
                f"a single row does not fit into memory ({self.name} {self.configured}, halved "
                f"{self.halvings} times): {reason}"
            )
        self.size //= 2
        self.halvings += 1


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an exception means that the device or the host ran out of memory."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError | OutOfMemory):
        return True
    return isinstance(error, RuntimeError) and any(words in str(error) for words in MESSAGES)


def first_line(error: BaseException) -> str:
    """The first line of an error's message, without the allocator's statistics."""
    return (str(error).strip() or type(error).__name__).splitlines()[0][:200]


def release_memory() -> None:
    """Frees unused memory: reference cycles that hold tensors, and CUDA's allocator cache."""
    gc.collect()
    if torch.cuda.is_initialized():  # type: ignore[no-untyped-call]  # torch leaves it untyped
        torch.cuda.empty_cache()
