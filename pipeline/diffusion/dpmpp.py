"""DPM-Solver++(2M): second order for one evaluation a step. Source: Lu et al., arXiv:2211.01095."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

from torch import Tensor

from pipeline.diffusion.denoiser import Denoise
from pipeline.diffusion.schedule import Level
from pipeline.diffusion.solver import AfterStep, unchanged

FEW_STEPS = 15  # below it the last step is of first order, as in the authors' code (stability)


def dpmpp_2m(
    denoise: Denoise,
    latent: Tensor,
    levels: Sequence[Level],
    after_step: AfterStep | None = None,
) -> Tensor:
    """Extrapolates the predicted x0 from this step and the one before it: see ``Solver``.

    All it remembers is the last predicted x0, and that is a function of the latent which the
    network was given, blended with the background as it was: the blend needs no correction.

    The network is called at ``levels[:-1]``, in order. The first step, one that leaves or reaches
    tau = 0, and the last of fewer than ``FEW_STEPS`` are of first order (DDIM).

    Source: arXiv:2211.01095, algorithm 2, in the form that the authors call midpoint.
    """
    after_step = after_step or unchanged
    x0_before, step_before = None, 0.0
    last = levels[-1] if len(levels) - 1 < FEW_STEPS else None
    for level, reached in pairwise(levels):
        eps = denoise(latent, level)
        u = latent / level.alpha
        x0 = u - level.tau * eps
        step = _log_snr(reached) - _log_snr(level)
        u = u + (reached.tau - level.tau) * eps
        if x0_before is not None and step_before and math.isfinite(step) and reached is not last:
            ahead = step / (2.0 * step_before)  # 0 after a first step out of tau = 0
            u = u + (1.0 - reached.tau / level.tau) * ahead * (x0 - x0_before)
        x0_before, step_before = x0, step
        latent = after_step(u * reached.alpha, reached)
    return latent


def _log_snr(level: Level) -> float:
    """The paper's lambda, log(alpha / sigma); infinite where the level is exactly clean."""
    return -math.log(level.tau) if level.tau > 0.0 else math.inf
