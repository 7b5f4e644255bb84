"""What a solver is: an integrator of du = eps dtau, in u = x / alpha and tau = sigma / alpha.

Levels that ascend encode, levels that descend decode: a solver does not know the difference.
Source: DiffEdit, arXiv:2210.11427, the ODE of its DDIM encoding.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

from torch import Tensor

from pipeline.diffusion.denoiser import Denoise
from pipeline.diffusion.schedule import Level

AfterStep = Callable[[Tensor, Level], Tensor]  # sees the latent and the level that it has reached


class Solver(Protocol):
    """Takes a latent along the levels, from the first to the last."""

    def __call__(
        self,
        denoise: Denoise,
        latent: Tensor,
        levels: Sequence[Level],
        after_step: AfterStep | None = None,
    ) -> Tensor:
        """Integrates.

        Args:
            denoise: gives eps for a latent at a level.
            latent: (N, C, h, w) float32 at ``levels[0]``.
            levels: at least one, all ascending or all descending in noise.
            after_step: replaces the latent after each step, e.g. blends in the background.

        Returns:
            (N, C, h, w) float32 at ``levels[-1]``.
        """
        ...


def unchanged(latent: Tensor, reached: Level) -> Tensor:
    """The ``AfterStep`` that does nothing."""
    return latent
