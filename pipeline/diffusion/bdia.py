"""BDIA at gamma 1: an inversion that is algebraically exact. Zhang et al., arXiv:2307.10829."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from pipeline.diffusion.ddim import ddim_step
from pipeline.diffusion.denoiser import Denoise
from pipeline.diffusion.schedule import Level
from pipeline.diffusion.solver import AfterStep, unchanged


def bdia(
    denoise: Denoise,
    latent: Tensor,
    levels: Sequence[Level],
    after_step: AfterStep | None = None,
    *,
    neighbour: Tensor | None = None,
) -> Tensor:
    """Steps over a level: from the state behind it, along the eps at it, to the state ahead.

    x_ahead = x_behind + DDIM(x, ahead) - DDIM(x, behind) is its own inverse with ahead and behind
    exchanged, so decoding from the last two states of an encoding undoes it, up to rounding. With
    gamma below 1 the inverse divides by gamma at each step, and rounding errors grow with it.

    Without a ``neighbour``, and where there is but one step, the first one is DDIM's. With it
    the network is not asked at ``levels[0]``: decoding costs one evaluation less than encoding.
    """
    after_step = after_step or unchanged
    if len(levels) == 1:
        return latent
    if neighbour is None or len(levels) == 2:
        neighbour = ddim_step(latent, denoise(latent, levels[0]), levels[0], levels[1])
    before, latent = latent, after_step(neighbour, levels[1])
    for behind, level, ahead in zip(levels, levels[1:], levels[2:], strict=False):
        eps = denoise(latent, level)
        step = ddim_step(latent, eps, level, ahead) - ddim_step(latent, eps, level, behind)
        before, latent = latent, after_step(before + step, ahead)
    return latent
