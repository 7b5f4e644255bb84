"""Asynchronous copies of a part's arrays between main memory and a GPU.

Both directions use pinned memory and a copy stream beside the compute stream. The host does not
wait for a copy, and a copy waits only for those queued network calls whose result it needs. On a
CPU nothing is copied.

Why this is correct: the compute stream waits for uploads, and the copy stream for the tensors to
download (``wait_stream``). Memory of one stream that the other still uses is not reused before the
other is done (``record_stream``). Pinned memory comes from torch's caching allocator, which records
an event with each copy and reuses a block only after it.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from pipeline.diffusion.latents import stacked


def upload(host: Tensor, device: torch.device) -> Tensor:
    """Copies a tensor to a device; later work on the compute stream sees it complete.

    Args:
        host: in main memory, of any dtype. It may be freed as soon as this returns, and changed
            unless it is pinned: then it is read in place.
        device: the target device.

    Returns:
        The same values, shape, strides and dtype; on a CPU, ``host`` itself.
    """
    if device.type != "cuda":
        return host.to(device)
    stream = _copy_stream(device)
    with torch.cuda.stream(stream):
        arrived = host.pin_memory().to(device, non_blocking=True)
    computing = torch.cuda.current_stream(device)
    computing.wait_stream(stream)
    arrived.record_stream(computing)
    return arrived


def upload_stacked(arrays: Sequence[np.ndarray | None], device: torch.device) -> Tensor:
    """(N, ...) on a device: ``stacked`` arrays, copied straight into the memory that it reads."""
    return upload(stacked(arrays, pinned=device.type == "cuda"), device)


class Download:
    """A copy to main memory in progress. Start all copies of a part before waiting for any."""

    def __init__(self, tensor: Tensor, into: Tensor | None = None) -> None:
        """Starts the copy, which runs once the calls queued before it have finished.

        Args:
            tensor: on any device; on a CPU and without ``into`` it is the result itself.
            into: of the same shape and dtype, in main memory, pinned if the tensor is on a GPU.
        """
        self._host, self._done = tensor if into is None else into, None
        if tensor.device.type != "cuda":
            if into is not None:
                into.copy_(tensor)
            return
        tensor = tensor if into is None else tensor.contiguous()  # else the copy would wait
        stream = _copy_stream(tensor.device)
        stream.wait_stream(torch.cuda.current_stream(tensor.device))
        with torch.cuda.stream(stream):
            if into is None:
                self._host = torch.empty_like(tensor, device="cpu", pin_memory=True)
            self._host.copy_(tensor, non_blocking=True)
            tensor.record_stream(stream)
            self._done = stream.record_event()

    def wait(self) -> Tensor:
        """Waits for the copy and returns the values in main memory.

        Raises:
            RuntimeError: an earlier computation on the device failed.
        """
        if self._done is not None:
            self._done.synchronize()
        return self._host


@functools.cache
def _copy_stream(device: torch.device) -> torch.cuda.Stream:
    """One copy stream per device and process."""
    return torch.cuda.Stream(device)  # type: ignore[no-untyped-call]  # torch leaves it untyped
