"""DDIM, deterministic and ancestral. Source: Song et al., arXiv:2010.02502, equations 12 and 16."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import pairwise

from torch import Tensor

from pipeline.diffusion.denoiser import Denoise
from pipeline.diffusion.schedule import Level
from pipeline.diffusion.solver import AfterStep, u_of, unchanged


def ddim_step(latent: Tensor, eps: Tensor, level: Level, reached: Level) -> Tensor:
    """One Euler step in (u, tau) from ``level`` to ``reached``, in either direction."""
    u = u_of(latent, eps, level) + (reached.tau - level.tau) * eps
    return (u * reached.alpha).to(latent.dtype)


def ddim(
    denoise: Denoise,
    latent: Tensor,
    levels: Sequence[Level],
    after_step: AfterStep | None = None,
) -> Tensor:
    """One Euler step and one network evaluation per level: see ``Solver``.

    The network is called at ``levels[:-1]``, in order.
    """
    after_step = after_step or unchanged
    for level, reached in pairwise(levels):
        latent = after_step(ddim_step(latent, denoise(latent, level), level, reached), reached)
    return latent


def ancestral_ddim(
    denoise: Denoise,
    latent: Tensor,
    levels: Sequence[Level],
    after_step: AfterStep | None = None,
    *,
    ddim_eta: float,
    draw: Callable[[Level], Tensor],
) -> Tensor:
    """DDIM that replaces a share of the noise by fresh noise at each step. Denoising only.

    Args:
        ddim_eta: in [0, 1]; 0 is DDIM, 1 is as stochastic as DDPM.
        draw: returns standard normal noise, (N, C, h, w), for the step that reaches a level.

    Source: arXiv:2010.02502, equation 16. In tau its sigma_t is
    ddim_eta * tau_to / tau_from * sqrt(tau_from^2 - tau_to^2), times alpha_to.
    """
    after_step = after_step or unchanged
    for level, reached in pairwise(levels):
        eps = denoise(latent, level)
        fresh = ddim_eta * reached.tau / level.tau * math.sqrt(level.tau**2 - reached.tau**2)
        kept = math.sqrt(reached.tau**2 - fresh**2)
        u = u_of(latent, eps, level) + (kept - level.tau) * eps + fresh * draw(reached)
        latent = after_step((u * reached.alpha).to(latent.dtype), reached)
    return latent
