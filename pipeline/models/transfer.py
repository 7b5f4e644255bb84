"""How the VAE's images cross between main memory and a GPU; latents are copied plainly.

Both ways go through pinned memory, on a stream beside the one that computes: the host does not wait
for a copy, and a copy does not wait for the network's calls that are queued before it, unless it
needs them. On a CPU nothing is copied and there is nothing to wait for.

What keeps this right: the computing stream waits for what comes up, and the copying one for what is
to go down (``wait_stream``); memory of one stream that the other still uses is not handed out again
before that is done (``record_stream``); and pinned memory is of torch's caching allocator, which
notes an event with each copy and reuses a block only after it.
"""

from __future__ import annotations

import functools

import torch
from torch import Tensor


def upload(host: Tensor, device: torch.device) -> Tensor:
    """A tensor on a device; what is computed there from now on finds it complete.

    Args:
        host: in main memory, of any dtype. It may be changed or freed as soon as this returns.
        device: where it goes.

    Returns:
        The same values, shape, strides and dtype; on a CPU ``host`` itself.
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


class Download:
    """A tensor on its way to main memory; asked for when all of a part have been begun."""

    def __init__(self, tensor: Tensor) -> None:
        """Begins the copy: of what the tensor will be when the calls before this one are done."""
        self._host, self._done = tensor, None
        if tensor.device.type != "cuda":
            return
        stream = _copy_stream(tensor.device)
        stream.wait_stream(torch.cuda.current_stream(tensor.device))
        with torch.cuda.stream(stream):
            self._host = torch.empty_like(tensor, device="cpu", pin_memory=True)
            self._host.copy_(tensor, non_blocking=True)
            tensor.record_stream(stream)
            self._done = stream.record_event()

    def wait(self) -> Tensor:
        """The values in main memory, once they are there.

        Raises:
            RuntimeError: the device failed in what it computed before.
        """
        if self._done is not None:
            self._done.synchronize()
        return self._host


@functools.cache
def _copy_stream(device: torch.device) -> torch.cuda.Stream:
    """Made once a device and process."""
    return torch.cuda.Stream(device)
