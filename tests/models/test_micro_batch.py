"""Micro-batches: rows are split evenly, halved when memory runs out, and restored."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from pipeline.models.micro_batch import MicroBatch, OutOfMemory, is_out_of_memory


def real_cpu_error() -> RuntimeError:
    """The error that torch raises for an allocation that is too large for any host."""
    with pytest.raises(RuntimeError) as caught:
        torch.empty(2**60, dtype=torch.uint8)
    return caught.value


@pytest.mark.parametrize("num_rows", [1, 4, 5, 7, 9, 33])
def test_rows_are_split_evenly_and_in_order(num_rows: int) -> None:
    """There are as few calls as possible, and their sizes differ by at most one row."""
    calls = MicroBatch(4).map(lambda rows: list(range(num_rows))[rows], num_rows)
    assert [row for call in calls for row in call] == list(range(num_rows))
    assert len(calls) == -(-num_rows // 4)
    assert max(map(len, calls)) - min(map(len, calls)) <= 1


def test_rows_that_run_out_of_memory_are_retried_at_half_the_size() -> None:
    """Finished rows are not repeated; the smaller size is kept for later rows until ``restore``."""
    micro_batch, calls = MicroBatch(8), []
    errors: list[Exception] = [real_cpu_error(), MemoryError(), torch.OutOfMemoryError("CUDA")]

    def compute(rows: slice) -> list[int]:
        size = rows.stop - rows.start
        calls.append(size)
        if rows.start >= 8 and size > 2:
            raise errors.pop()
        return list(range(rows.start, rows.stop))

    results = micro_batch.map(compute, 24)
    assert [row for call in results for row in call] == list(range(24))
    assert calls == [8, 8, 4, *[2] * 8]
    assert (micro_batch.size, micro_batch.halvings) == (2, 2)
    assert sum(map(len, micro_batch.map(lambda rows: [0] * (rows.stop - rows.start), 4))) == 4
    micro_batch.restore()
    assert (micro_batch.size, micro_batch.halvings) == (8, 0)


def test_single_row_that_does_not_fit_is_an_error() -> None:
    """The size goes from 5 to 2 to 1; the error says so and has the allocator's message."""

    def compute(rows: slice) -> None:
        raise real_cpu_error()

    with pytest.raises(OutOfMemory, match=r"micro_batch 5, halved 2 times.*allocate memory"):
        MicroBatch(5).map(compute, 5)


def test_memory_is_released_before_the_next_attempt(monkeypatch: pytest.MonkeyPatch) -> None:
    """The failed call's tensors are freed before CUDA's cache is emptied."""
    alive: list[bool] = []
    held: list[int] = []

    class Tensor:
        def __del__(self) -> None:
            held.clear()

    def compute(rows: slice) -> None:
        tensor = Tensor()
        tensor.itself = tensor  # type: ignore[attr-defined]
        held.append(1)
        if rows.stop - rows.start > 1:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
        del tensor.itself  # type: ignore[attr-defined]

    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: alive.append(bool(held)))
    MicroBatch(2).map(compute, 2)
    assert alive == [False]


def test_other_errors_are_not_retried() -> None:
    """A wrong shape is raised at once, without a second attempt."""

    def compute(rows: slice) -> None:
        calls.append(rows)
        raise RuntimeError("mat1 and mat2 shapes cannot be multiplied")

    calls: list[slice] = []
    with pytest.raises(RuntimeError, match="shapes"):
        MicroBatch(4).map(compute, 4)
    assert len(calls) == 1


def test_out_of_memory_errors_of_host_and_device_are_recognized() -> None:
    """The allocators' own classes and the messages of plain RuntimeErrors are recognized."""
    with pytest.raises(MemoryError) as numpy_error:
        np.empty(2**60, np.uint8)
    for error in (
        real_cpu_error(),
        numpy_error.value,
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."),
        RuntimeError("CUDA error: out of memory\nCUDA kernel errors might be ..."),
        RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"),
        RuntimeError(
            "CUDA error: CUBLAS_STATUS_NOT_INITIALIZED when calling `cublasCreate(handle)`"
        ),
    ):
        assert is_out_of_memory(error)
    assert not is_out_of_memory(RuntimeError("CUDA error: device-side assert triggered"))
    assert not is_out_of_memory(ValueError("out of memory"))
