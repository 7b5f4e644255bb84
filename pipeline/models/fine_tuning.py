"""Changing all weights of a network for a while."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn


@contextmanager
def fine_tuning(network: nn.Module) -> Iterator[list[nn.Parameter]]:
    """While it lasts the weights take gradients and may be changed; afterwards they are as before.

    To the bit, whatever ends it: the copy that they are restored from lies in the main memory.

    Yields:
        The parameters.
    """
    parameters = list(network.parameters())
    saved = [parameter.detach().to("cpu", copy=True) for parameter in parameters]
    try:
        network.requires_grad_(True)
        yield parameters
    finally:
        network.requires_grad_(False)
        with torch.no_grad():
            for parameter, value in zip(parameters, saved, strict=True):
                parameter.grad = None
                parameter.copy_(value)
