"""DPM-Solver++(2M) compared with the paper and with diffusers, and with the background blend."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
import torch
from diffusers import DPMSolverMultistepScheduler
from torch import Tensor

from pipeline.diffusion.dpmpp import dpmpp_2m
from pipeline.diffusion.latents import blend
from pipeline.diffusion.schedule import Level, Schedule
from pipeline.diffusion.solvers import encode_trajectory
from tests.diffusion.networks import (
    SCHEDULE,
    cumulative_alphas,
    gaussian_eps,
    gaussian_flow,
    network,
    network_float64,
    relative_error,
)
from tests.diffusion.test_schedule import STABLE_DIFFUSION
from tests.reference import solvers as reference


@pytest.mark.parametrize("downwards", [False, True])
def test_both_directions_agree_with_the_paper(
    downwards: bool, generator: torch.Generator, tolerance: dict
) -> None:
    """Every level of 40 steps, in either direction, equals the float64 reference."""
    levels = SCHEDULE.levels(50, 0.8)
    if downwards:
        levels = levels[::-1]
    latent = torch.randn(2, 4, 8, 8, generator=generator)
    ours = [latent]

    def keep(latent: Tensor, reached: Level) -> Tensor:
        ours.append(latent)
        return latent

    def denoise(x: np.ndarray, k: int) -> np.ndarray:
        return network_float64(x, levels[k].index)

    dpmpp_2m(network, latent, levels, keep)
    theirs = reference.dpmpp_2m(denoise, latent.double().numpy(), cumulative_alphas(levels))
    for our_latent, their_latent in zip(ours, theirs, strict=True):
        assert relative_error(our_latent, their_latent) < tolerance[torch.float32]


@pytest.mark.parametrize("num_steps", [10, 40])
def test_decoding_equals_diffusers(num_steps: int, generator: torch.Generator) -> None:
    """diffusers' multistep scheduler on the same timesteps gives the same latent to 1e-4.

    Settings: dpmsolver++, order 2, midpoint; the final sigma is that of timestep 0, as in Stable
    Diffusion's DDIM config (set_alpha_to_one: false). Its last step is first order below 15 steps.
    """
    levels = SCHEDULE.levels(num_steps)[::-1]
    scheduler = DPMSolverMultistepScheduler.from_config(
        STABLE_DIFFUSION,
        algorithm_type="dpmsolver++",
        solver_order=2,
        solver_type="midpoint",
        final_sigmas_type="sigma_min",
    )
    scheduler.set_timesteps(timesteps=[int(level.timestep) for level in levels[:-1]])
    latent = theirs = torch.randn(2, 4, 8, 8, generator=generator)
    for level, timestep in zip(levels, scheduler.timesteps, strict=False):
        theirs = scheduler.step(network(theirs, level), timestep, theirs).prev_sample
    ours = dpmpp_2m(network, latent, levels)
    assert relative_error(ours, theirs.double().numpy()) < 1e-4


@pytest.mark.parametrize("upwards", [True, False])
def test_error_decreases_quadratically_with_steps(upwards: bool) -> None:
    """For normal data, whose solution is known, twice the steps divide the error by about four."""
    latent = torch.linspace(-1, 1, 16, dtype=torch.float64)
    errors = []
    for num_steps in (40, 80, 160):  # evenly spaced in log(alpha / sigma), from 2 to -2
        taus = np.exp(np.linspace(-2.0, 2.0, num_steps + 1))
        levels = [
            Level(k, k, (1.0 + tau**2) ** -0.5, tau * (1.0 + tau**2) ** -0.5)
            for k, tau in enumerate(taus)
        ]
        if not upwards:
            levels = levels[::-1]
        exact = gaussian_flow(latent, levels[0], levels[-1])
        errors.append(float((dpmpp_2m(gaussian_eps, latent, levels) - exact).abs().max()))
    assert all(coarse > 3.0 * fine for coarse, fine in pairwise(errors)), errors


@pytest.mark.parametrize("num_steps", [1, 2, 20])
def test_exactly_clean_level_gives_finite_latents(num_steps: int) -> None:
    """With tau = 0 at the clean end (set_alpha_to_one), both directions give finite latents."""
    config = {key: value for key, value in STABLE_DIFFUSION.items() if key != "set_alpha_to_one"}
    levels = Schedule.from_config(config).levels(num_steps)
    latent = torch.linspace(-1, 1, 16)
    noisy = dpmpp_2m(gaussian_eps, latent, levels)
    assert noisy.isfinite().all()
    assert dpmpp_2m(gaussian_eps, noisy, levels[::-1]).isfinite().all()


def test_step_between_equal_levels_changes_nothing() -> None:
    """If level 1 is timestep 0, it equals the clean level, and the step between them is a no-op."""
    levels = Schedule.from_config(STABLE_DIFFUSION | {"steps_offset": 0}).levels(20)
    assert levels[0].tau == levels[1].tau
    latent = torch.linspace(-1, 1, 16)
    noisy = dpmpp_2m(gaussian_eps, latent, levels)
    torch.testing.assert_close(noisy, dpmpp_2m(gaussian_eps, latent, levels[1:]))
    down = levels[::-1]
    torch.testing.assert_close(
        dpmpp_2m(gaussian_eps, noisy, down), dpmpp_2m(gaussian_eps, noisy, down[:-1])
    )


def test_previous_x0_is_correct_with_the_background_blend(generator: torch.Generator) -> None:
    """Masked decoding keeps the background exactly, and does not disturb the edited cells.

    The previous x0 is predicted from the blended latent. With a network that acts on each cell
    separately, the edited cells are the same as without any blending.
    """
    levels = SCHEDULE.levels(20, 0.8)
    latent = torch.randn(1, 4, 8, 8, generator=generator)
    trajectory = encode_trajectory(gaussian_eps, latent, levels, solver=dpmpp_2m)
    mask = (torch.rand(1, 1, 8, 8, generator=generator) > 0.5).float()

    def edited_eps(latent: Tensor, level: Level) -> Tensor:
        return torch.tanh(latent + 0.3)

    def keep_background(latent: Tensor, reached: Level) -> Tensor:
        return blend(latent, trajectory[:, reached.index], mask)

    free = dpmpp_2m(edited_eps, trajectory[:, -1], levels[::-1])
    kept = dpmpp_2m(edited_eps, trajectory[:, -1], levels[::-1], keep_background)
    assert torch.equal(kept, blend(free, latent, mask))
    assert (free - latent).abs().max() > 0.1
