"""The integrator: one for encoding and decoding."""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np
import pytest
import torch
from torch import Tensor

from pipeline.diffusion.latents import blend
from pipeline.diffusion.schedule import Level, Schedule
from pipeline.diffusion.solvers import ddim, encode_trajectory
from tests.diffusion.test_schedule import STABLE_DIFFUSION
from tests.reference import ddim as reference

SCHEDULE = Schedule.from_config(STABLE_DIFFUSION)


def network(latent: Tensor, level: Level) -> Tensor:
    """Some smooth function of latent and level."""
    return torch.tanh(latent * 0.7 + 0.1 * level.index) + 0.2 * latent.flip(-1)


def network_float64(x: np.ndarray, index: int) -> np.ndarray:
    """The same in numpy."""
    return np.tanh(x * 0.7 + 0.1 * index) + 0.2 * x[..., ::-1]


def gaussian_eps(latent: Tensor, level: Level, variance: float = 0.25) -> Tensor:
    """The true eps of data that is normal with this variance."""
    return level.sigma * latent / (level.alpha**2 * variance + level.sigma**2)


def relative_error(ours: Tensor, theirs: np.ndarray) -> float:
    return float(np.abs(ours.double().numpy() - theirs).max() / np.abs(theirs).max())


def test_one_step_by_hand() -> None:
    """alpha 1, tau 0 to alpha 0.6, tau 4/3 with eps 3: x = 0.6 * (2 + 4/3 * 3) = 3.6."""
    levels = [Level(0, 0, 1.0, 0.0), Level(1, 1, 0.6, 0.8)]
    reached = ddim(lambda x, level: torch.full_like(x, 3.0), torch.tensor([2.0]), levels)
    assert reached.item() == pytest.approx(3.6, rel=1e-6)


def test_encoding_agrees_with_the_paper(generator: torch.Generator, tolerance: dict) -> None:
    """Every level of a 40-step encoding equals the float64 transcription."""
    levels = SCHEDULE.levels(50, 0.8)
    latent = torch.randn(2, 4, 8, 8, generator=generator)
    ours = encode_trajectory(network, latent, levels)
    a = np.array([level.alpha**2 for level in levels])
    theirs = np.stack(reference.encode(network_float64, latent.double().numpy(), a), axis=1)
    assert relative_error(ours, theirs) < tolerance[torch.float32]
    assert torch.equal(ours[:, 0], latent)


def test_masked_decoding_agrees_with_the_paper(generator: torch.Generator, tolerance: dict) -> None:
    """A 40-step decoding with a blend after each step equals the float64 transcription."""
    levels = SCHEDULE.levels(50, 0.8)
    trajectory = torch.randn(41, 4, 8, 8, generator=generator)
    mask = (torch.rand(1, 8, 8, generator=generator) > 0.5).float()
    ours = ddim(
        network,
        trajectory[-1],
        levels[::-1],
        lambda x, reached: blend(x, trajectory[reached.index], mask),
    )
    a = np.array([level.alpha**2 for level in levels])
    xs = list(trajectory.double().numpy())
    theirs = reference.masked_decode(network_float64, xs, a, mask.double().numpy())
    assert relative_error(ours, theirs) < tolerance[torch.float32]
    assert torch.equal(ours[:, mask[0] == 0], trajectory[0][:, mask[0] == 0])


def test_encoding_visits_the_levels_of_decoding_reversed() -> None:
    """Both directions reach the same timesteps, and the network is asked once a step."""
    levels = SCHEDULE.levels(50, 0.8)
    asked: list[float] = []
    reached: list[float] = []

    def denoise(latent: Tensor, level: Level) -> Tensor:
        asked.append(level.timestep)
        return latent

    def note(latent: Tensor, level: Level) -> Tensor:
        reached.append(level.timestep)
        return latent

    ddim(denoise, torch.zeros(1), levels, note)
    up, asked_up = [0, *reached], list(asked)
    asked.clear()
    reached.clear()
    ddim(denoise, torch.zeros(1), levels[::-1], note)
    down = [781, *reached]
    assert up == down[::-1]
    assert (len(asked_up), len(asked)) == (40, 40)
    assert (asked_up[0], asked_up[-1], asked[0], asked[-1]) == (0, 761, 781, 1)


def test_constant_noise_is_inverted_exactly() -> None:
    """Where eps does not change along the way, decoding undoes encoding."""
    levels = SCHEDULE.levels(50, 0.8)
    latent = torch.linspace(-2, 2, 64, dtype=torch.float64)
    eps = torch.linspace(1, -1, 64, dtype=torch.float64)
    noisy = ddim(lambda x, level: eps, latent, levels)
    assert not torch.allclose(noisy, latent)
    back = ddim(lambda x, level: eps, noisy, levels[::-1])
    torch.testing.assert_close(back, latent, rtol=1e-12, atol=1e-12)


def test_encoding_converges_to_the_true_solution() -> None:
    """For normal data the ODE has a closed solution; twice the steps halve the error."""
    latent = torch.linspace(-1, 1, 16, dtype=torch.float64)
    errors = []
    for num_steps in (25, 50, 100, 200):
        levels = SCHEDULE.levels(num_steps, 0.8)
        start, end = levels[0], levels[-1]
        scale = [math.sqrt(lv.alpha**2 * 0.25 + lv.sigma**2) for lv in (start, end)]
        encoded = ddim(gaussian_eps, latent, levels)
        errors.append(float((encoded - latent * scale[1] / scale[0]).abs().max()))
    ratios = [coarse / fine for coarse, fine in pairwise(errors)]
    assert all(1.6 < ratio < 2.4 for ratio in ratios), (errors, ratios)


def test_round_trip_is_better_with_more_steps() -> None:
    """Encode then decode returns the input, twice as close with twice the steps."""
    latent = torch.linspace(-1, 1, 16, dtype=torch.float64)
    errors = []
    for num_steps in (12, 25, 50, 100):
        levels = SCHEDULE.levels(num_steps, 0.8)
        back = ddim(gaussian_eps, ddim(gaussian_eps, latent, levels), levels[::-1])
        errors.append(float((back - latent).abs().max()))
    assert errors[2] < 0.1
    assert all(coarse > 1.5 * fine for coarse, fine in pairwise(errors))
