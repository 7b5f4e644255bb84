"""Integrators of the one ODE, du = eps dtau in u = x / alpha, tau = sigma / alpha.

Levels that ascend encode, levels that descend decode: the integrator does not know the difference.
A further solver (DPM-Solver++, an exact inversion) is a further function of ``Solver``'s form.
Source: DiffEdit, arXiv:2210.11427, the ODE of its DDIM encoding; DDIM, arXiv:2010.02502.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Protocol

import torch
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
    ) -> Tensor: ...


def ddim(
    denoise: Denoise,
    latent: Tensor,
    levels: Sequence[Level],
    after_step: AfterStep | None = None,
) -> Tensor:
    """Deterministic DDIM: one Euler step, and one evaluation of the network, from level to level.

    Args:
        denoise: gives eps for a latent at a level; called at ``levels[:-1]``, in order.
        latent: (N, C, h, w) float32 at ``levels[0]``.
        levels: at least one.
        after_step: replaces the latent after each step, e.g. blends in the background.

    Returns:
        (N, C, h, w) float32 at ``levels[-1]``.
    """
    for level, reached in pairwise(levels):
        eps = denoise(latent, level)
        u = latent / level.alpha + (reached.tau - level.tau) * eps
        latent = u * reached.alpha
        if after_step is not None:
            latent = after_step(latent, reached)
    return latent


def encode_trajectory(
    denoise: Denoise, latent: Tensor, levels: Sequence[Level], *, solver: Solver = ddim
) -> Tensor:
    """Encodes a clean latent and keeps every level on the way.

    Args:
        denoise: DiffEdit's is unconditional: the empty text, no guidance.
        latent: (N, C, h, w) float32, clean.
        levels: K + 1, ascending from level 0.
        solver: the integrator.

    Returns:
        (N, K + 1, C, h, w) float32; [:, 0] is the clean latent itself.

    Source: DiffEdit, step 2.
    """
    trajectory = [latent]

    def keep(latent: Tensor, reached: Level) -> Tensor:
        trajectory.append(latent)
        return latent

    solver(denoise, latent, levels, keep)
    return torch.stack(trajectory, dim=1)
