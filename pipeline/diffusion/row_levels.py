"""Noise levels that differ from row to row, for training; sampling uses one level for all rows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from pipeline.diffusion.schedule import Level


@dataclass(frozen=True)
class RowLevels:
    """One noise level for each row of a batch; can be used in place of a ``Level``.

    Attributes:
        timestep: (N,) float32, as passed to the network.
        alpha: (N, 1, 1, 1) float32, the clean latent's factor.
        sigma: (N, 1, 1, 1) float32, the noise's standard deviation.
    """

    timestep: Tensor
    alpha: Tensor
    sigma: Tensor

    @classmethod
    def of(cls, levels: Sequence[Level], device: torch.device) -> RowLevels:
        """The levels as tensors on a device, in the given order."""
        values = [[level.timestep, level.alpha, level.sigma] for level in levels]
        host = torch.tensor(values, dtype=torch.float32).T.contiguous()
        if device.type == "cuda":  # so that the host need not wait, in every step of a fit
            host = host.pin_memory()
        timestep, alpha, sigma = host.to(device, non_blocking=True)
        return cls(timestep, alpha.view(-1, 1, 1, 1), sigma.view(-1, 1, 1, 1))
