"""Temporary changes to all weights of a network."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn


@contextmanager
def fine_tuning(network: nn.Module) -> Iterator[list[nn.Parameter]]:
    """Lets the weights be trained inside the context and restores them afterwards, bit for bit.

    The weights are restored after an exception too. The copy lies in main memory.

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
