"""Rows a call: shared out evenly, halved when memory does not suffice, and restored."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from pipeline.models.micro_batch import MicroBatch, OutOfMemory, is_out_of_memory


def real_cpu_error() -> RuntimeError:
    """What torch raises for an allocation that no host can hold."""
    with pytest.raises(RuntimeError) as caught:
        torch.empty(2**60, dtype=torch.uint8)
    return caught.value


@pytest.mark.parametrize("num_rows", [1, 4, 5, 7, 9, 33])
def test_rows_are_shared_out_evenly_and_in_order(num_rows: int) -> None:
    """As few calls as the size allows, and no call has more than one row more than another."""
    calls = MicroBatch(4).map(lambda rows: list(range(num_rows))[rows], num_rows)
    assert [row for call in calls for row in call] == list(range(num_rows))
    assert len(calls) == -(-num_rows // 4)
    assert max(map(len, calls)) - min(map(len, calls)) <= 1


def test_what_runs_out_of_memory_is_tried_at_half_the_size() -> None:
    """Nothing is done twice, and the smaller size holds for what follows, until it is restored."""
    micro_batch, calls = MicroBatch(8), []
    error: list[Exception] = [real_cpu_error(), MemoryError(), torch.OutOfMemoryError("CUDA")]

    def compute(rows: slice) -> list[int]:
        size = rows.stop - rows.start
        calls.append(size)
        if rows.start >= 8 and size > 2:
            raise error.pop()
        return list(range(rows.start, rows.stop))

    results = micro_batch.map(compute, 24)
    assert [row for call in results for row in call] == list(range(24))
    assert calls == [8, 8, 4, *[2] * 8]
    assert (micro_batch.size, micro_batch.halvings) == (2, 2)
    assert sum(map(len, micro_batch.map(lambda rows: [0] * (rows.stop - rows.start), 4))) == 4
    micro_batch.restore()
    assert (micro_batch.size, micro_batch.halvings) == (8, 0)


def test_one_row_that_does_not_fit_is_an_error_that_says_what_was_tried() -> None:
    """From 5 rows over 2 to 1, and no further."""

    def compute(rows: slice) -> None:
        raise real_cpu_error()

    with pytest.raises(OutOfMemory, match=r"micro_batch 5, halved 2 times.*allocate memory"):
        MicroBatch(5).map(compute, 5)


def test_memory_is_released_before_the_next_attempt(monkeypatch: pytest.MonkeyPatch) -> None:
    """The failed call's tensors are gone when the allocator is asked to give back its cache."""
    alive: list[bool] = []
    held = []

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


def test_other_errors_are_not_taken_for_short_memory() -> None:
    """A wrong shape at half the size is still a wrong shape."""

    def compute(rows: slice) -> None:
        calls.append(rows)
        raise RuntimeError("mat1 and mat2 shapes cannot be multiplied")

    calls: list[slice] = []
    with pytest.raises(RuntimeError, match="shapes"):
        MicroBatch(4).map(compute, 4)
    assert len(calls) == 1


def test_errors_of_host_and_device_are_known() -> None:
    """The allocators' own classes, and the words of those that raise a plain RuntimeError."""
    with pytest.raises(MemoryError) as numpys:
        np.empty(2**60, np.uint8)
    for error in (
        real_cpu_error(),
        numpys.value,
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."),
        RuntimeError("CUDA error: out of memory\nCUDA kernel errors might be ..."),
        RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"),
    ):
        assert is_out_of_memory(error)
    assert not is_out_of_memory(RuntimeError("CUDA error: device-side assert triggered"))
    assert not is_out_of_memory(ValueError("out of memory"))
