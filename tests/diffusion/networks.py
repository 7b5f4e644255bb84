"""Networks whose every answer is known, for the solvers' tests."""

from __future__ import annotations

import math

import numpy as np
from torch import Tensor, tanh

from pipeline.diffusion.schedule import Level, Schedule
from tests.diffusion.test_schedule import STABLE_DIFFUSION

SCHEDULE = Schedule.from_config(STABLE_DIFFUSION)
VARIANCE = 0.25  # of the normal data whose eps is known


def network(latent: Tensor, level: Level) -> Tensor:
    """Some smooth function of latent and level."""
    return tanh(latent * 0.7 + 0.1 * level.index) + 0.2 * latent.flip(-1)


def network_float64(x: np.ndarray, index: int) -> np.ndarray:
    """The same in numpy."""
    return np.tanh(x * 0.7 + 0.1 * index) + 0.2 * x[..., ::-1]


def gaussian_eps(latent: Tensor, level: Level) -> Tensor:
    """The true eps of data that is normal with ``VARIANCE``."""
    return level.sigma * latent / (level.alpha**2 * VARIANCE + level.sigma**2)


def gaussian_flow(latent: Tensor, level: Level, reached: Level) -> Tensor:
    """Where the ODE with ``gaussian_eps`` takes a latent: its closed solution."""
    start, end = (math.sqrt(lv.alpha**2 * VARIANCE + lv.sigma**2) for lv in (level, reached))
    return latent * (end / start)


def cumulative_alphas(levels: list[Level]) -> np.ndarray:
    """What the references take in place of levels."""
    return np.array([level.alpha**2 for level in levels])


def relative_error(ours: Tensor, theirs: np.ndarray) -> float:
    return float(np.abs(ours.double().numpy() - theirs).max() / np.abs(theirs).max())
