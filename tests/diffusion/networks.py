"""Analytic networks for the tests of the solvers."""

from __future__ import annotations

import math

import numpy as np
from torch import Tensor, tanh

from pipeline.diffusion.schedule import Level, Schedule
from tests.diffusion.test_schedule import STABLE_DIFFUSION

SCHEDULE = Schedule.from_config(STABLE_DIFFUSION)
VARIANCE = 0.25  # of normally distributed data, whose eps is known


def network(latent: Tensor, level: Level) -> Tensor:
    """An arbitrary smooth function of latent and level."""
    return tanh(latent * 0.7 + 0.1 * level.index) + 0.2 * latent.flip(-1)


def network_float64(x: np.ndarray, index: int) -> np.ndarray:
    """The same function in float64 numpy."""
    return np.tanh(x * 0.7 + 0.1 * index) + 0.2 * x[..., ::-1]


def gaussian_eps(latent: Tensor, level: Level) -> Tensor:
    """The exact eps for normally distributed data with ``VARIANCE``."""
    return level.sigma * latent / (level.alpha**2 * VARIANCE + level.sigma**2)


def gaussian_flow(latent: Tensor, level: Level, reached: Level) -> Tensor:
    """The closed-form solution of the ODE with ``gaussian_eps``, from one level to another."""
    start, end = (math.sqrt(lv.alpha**2 * VARIANCE + lv.sigma**2) for lv in (level, reached))
    return latent * (end / start)


def cumulative_alphas(levels: list[Level]) -> np.ndarray:
    """The levels in the form that the reference implementations take."""
    return np.array([level.alpha**2 for level in levels])


def relative_error(ours: Tensor, theirs: np.ndarray) -> float:
    return float(np.abs(ours.double().numpy() - theirs).max() / np.abs(theirs).max())
