"""DPM-Solver++(2M): second order, one evaluation per step. Source: Lu et al., arXiv:2211.01095."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

from torch import Tensor

from pipeline.diffusion.denoiser import Denoise
from pipeline.diffusion.schedule import Level
from pipeline.diffusion.solver import AfterStep, u_of, unchanged

FEW_STEPS = 15  # with fewer steps the last is first order, as in the authors' code (stability)


def dpmpp_2m(
    denoise: Denoise,
    latent: Tensor,
    levels: Sequence[Level],
    after_step: AfterStep | None = None,
) -> Tensor:
    """Extrapolates x0 from the predictions of this step and the previous one: see ``Solver``.

    The only state kept between steps is the last predicted x0. It was predicted from a latent
    that was already blended with the background, so the blend needs no correction.

    The network is called at ``levels[:-1]``, in order. These steps are first order (DDIM): the
    first, one that starts or ends at tau = 0, and the last one of fewer than ``FEW_STEPS``.

    Source: arXiv:2211.01095, algorithm 2, in the form that the authors call midpoint.
    """
    after_step = after_step or unchanged
    previous_x0, previous_step = None, 0.0
    last = levels[-1] if len(levels) - 1 < FEW_STEPS else None
    for level, reached in pairwise(levels):
        eps = denoise(latent, level)
        u = u_of(latent, eps, level)
        x0 = u - level.tau * eps
        step = _log_snr(reached) - _log_snr(level)
        u = u + (reached.tau - level.tau) * eps
        second_order = previous_step and math.isfinite(step) and reached is not last
        if previous_x0 is not None and second_order:
            weight = step / (2.0 * previous_step)  # 0 when the previous step started at tau = 0
            u = u + (1.0 - reached.tau / level.tau) * weight * (x0 - previous_x0)
        previous_x0, previous_step = x0, step
        latent = after_step((u * reached.alpha).to(latent.dtype), reached)
    return latent


def _log_snr(level: Level) -> float:
    """The paper's lambda, log(alpha / sigma); infinite for an exactly clean level."""
    return -math.log(level.tau) if level.tau > 0.0 else math.inf
