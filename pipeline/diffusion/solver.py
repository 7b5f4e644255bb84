"""The interface of a solver: it integrates du = eps dtau, with u = x / alpha, tau = sigma / alpha.

Ascending levels encode and descending levels decode; a solver treats both alike.
Source: DiffEdit, arXiv:2210.11427, the ODE of its DDIM encoding.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

import torch
from torch import Tensor

from pipeline.diffusion.denoiser import Denoise
from pipeline.diffusion.schedule import Level

AfterStep = Callable[[Tensor, Level], Tensor]  # gets the latent and the level that it has reached


class Solver(Protocol):
    """Moves a latent along the levels, from the first to the last."""

    def __call__(
        self,
        denoise: Denoise,
        latent: Tensor,
        levels: Sequence[Level],
        after_step: AfterStep | None = None,
    ) -> Tensor:
        """Integrates over the levels.

        Args:
            denoise: returns eps for a latent at a level; in float64 the step is computed so.
            latent: (N, C, h, w) float32 at ``levels[0]``.
            levels: at least one, all ascending or all descending in noise.
            after_step: returns the latent to continue with, e.g. blended with the background.

        Returns:
            (N, C, h, w) float32 at ``levels[-1]``.
        """
        ...


def u_of(latent: Tensor, eps: Tensor, level: Level) -> Tensor:
    """u, in the wider dtype of latent and eps: near pure noise the terms of a step cancel."""
    return latent.to(torch.promote_types(latent.dtype, eps.dtype)) / level.alpha


def unchanged(latent: Tensor, reached: Level) -> Tensor:
    """The ``AfterStep`` that does nothing."""
    return latent
