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

        def column(values: list[float]) -> Tensor:
            return torch.tensor(values, dtype=torch.float32, device=device)

        return cls(
            column([level.timestep for level in levels]),
            column([level.alpha for level in levels]).view(-1, 1, 1, 1),
            column([level.sigma for level in levels]).view(-1, 1, 1, 1),
        )
