"""Levels of flow matching: they match diffusers' sampler, and DDIM on them is Euler in s."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
import torch
from diffusers import FlowMatchEulerDiscreteScheduler
from torch import Tensor

from pipeline.diffusion.ddim import ddim
from pipeline.diffusion.dpmpp import dpmpp_2m
from pipeline.diffusion.flow_schedule import SMALLEST_ALPHA, FlowSchedule
from pipeline.diffusion.schedule import Level
from pipeline.diffusion.solver import Solver
from pipeline.diffusion.solvers import encode_trajectory
from pipeline.models.network import eps_from_velocity


@pytest.mark.parametrize("num_steps", [1, 5, 28, 50])
@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"shift": 3.0},
        {"shift": 3.0, "num_train_timesteps": 500},
        {"use_dynamic_shifting": True},
        {"use_dynamic_shifting": True, "time_shift_type": "linear", "max_shift": 3.0},
        {"use_dynamic_shifting": True, "shift_terminal": 0.02},
        {"shift": 3.0, "shift_terminal": 0.3},  # of one step diffusers divides 0 by 0
    ],
)
def test_levels_equal_those_of_diffusers(settings: dict, num_steps: int) -> None:
    """Every s and timestep equals that of diffusers' scheduler, for an image of 1024 tokens."""
    num_steps = max(num_steps, 2) if "shift_terminal" in settings else num_steps
    scheduler = FlowMatchEulerDiscreteScheduler(**settings)
    config = dict(scheduler.config)
    few, many = config["base_image_seq_len"], config["max_image_seq_len"]
    low, high = config["base_shift"], config["max_shift"]
    mu = low + (high - low) / (many - few) * (1024 - few)
    dynamic = settings.get("use_dynamic_shifting", False)
    scheduler.set_timesteps(num_steps, **({"mu": mu} if dynamic else {}))
    levels = FlowSchedule.from_config(config, (32, 32)).levels(num_steps)
    sigmas = np.array([level.sigma for level in levels[::-1]])
    timesteps = [level.timestep for level in levels[:0:-1]]
    np.testing.assert_allclose(sigmas[1:], scheduler.sigmas[1:].numpy(), rtol=1e-5, atol=1e-7)
    np.testing.assert_allclose(timesteps, scheduler.timesteps.numpy(), rtol=1e-5)
    assert sigmas[0] == 1.0 - SMALLEST_ALPHA
    assert [level.index for level in levels] == list(range(num_steps + 1))


def test_levels_start_clean_and_end_just_below_pure_noise() -> None:
    """Level 0 is the clean image; at ratio 1 tau is finite, and the network's timestep is s = 1."""
    schedule = FlowSchedule.from_config({"shift": 3.0}, (8, 8))
    levels = schedule.levels(50)
    assert (levels[0].alpha, levels[0].sigma, levels[0].timestep) == (1.0, 0.0, 0.0)
    assert levels[-1].timestep == 1000.0
    assert levels[-1].tau == pytest.approx(2.0**15, rel=1e-3)
    assert schedule.levels(50, 0.8) == levels[:41]
    assert all(level.alpha + level.sigma == 1.0 for level in levels)
    taus = [level.tau for level in levels]
    assert taus == sorted(taus)


def test_middle_of_the_schedule_is_shifted_like_the_grid() -> None:
    """Solved by hand: 3 * 0.5 / (1 + 2 * 0.5) = 0.75 with shift 3, and 0.5 without a shift."""
    level = FlowSchedule.from_config({"shift": 3.0}, (8, 8)).level_at(0.5)
    assert (level.sigma, level.alpha, level.timestep) == (0.75, 0.25, 750.0)
    assert FlowSchedule.from_config({}, (8, 8)).level_at(0.5).sigma == 0.5
    assert 0.0 < FlowSchedule.from_config({}, (8, 8)).level_at(0.0).sigma < 0.01


def test_the_middle_of_a_stretched_schedule_is_that_of_many_steps() -> None:
    """Solved by hand: 1 - 0.25 * 0.8 = 0.8 at shift 3, and the clean end is the terminal."""
    schedule = FlowSchedule.from_config({"shift": 3.0, "shift_terminal": 0.2}, (8, 8))
    assert schedule.level_at(0.5).sigma == pytest.approx(0.8)
    assert 0.2 < schedule.level_at(0.0).sigma < 0.21
    assert schedule.levels(1)[1].sigma == pytest.approx(1.0, abs=1e-4)
    levels = schedule.levels(500)
    assert levels[1].sigma == pytest.approx(0.2)
    assert levels[250].sigma == pytest.approx(0.8, abs=2e-3)


@pytest.mark.parametrize("value", [1.0, -0.1, "0.02", True])
def test_a_terminal_outside_the_schedule_is_an_error(value: object) -> None:
    """The error says what is allowed."""
    with pytest.raises(ValueError, match=r"shift_terminal=.* allowed is a number above 0"):
        FlowSchedule.from_config({"shift_terminal": value}, (8, 8))


@pytest.mark.parametrize("name", ["use_karras_sigmas", "invert_sigmas"])
def test_unsupported_grid_option_is_an_error(name: str) -> None:
    """A scheduler option that is not implemented and would change the grid is named."""
    with pytest.raises(ValueError, match=f"{name}=0.1 in the scheduler's config"):
        FlowSchedule.from_config({name: 0.1}, (8, 8))


def test_more_steps_than_timesteps_are_an_error() -> None:
    """The error names the key, the value and the allowed range."""
    with pytest.raises(ValueError, match=r"method\.steps=1001: the model allows 1 to 1000"):
        FlowSchedule().levels(1001)


def velocity(x: Tensor, s: float) -> Tensor:
    """A stand-in for a network: smooth, and linear in neither x nor s."""
    return torch.sin(3.0 * x) + (1.0 + s) * x.roll(1, dims=-1) - 0.3


def flow_eps(latent: Tensor, level: Level) -> Tensor:
    return eps_from_velocity(velocity(latent, level.sigma), latent, level)


def test_ddim_is_an_euler_step_in_s(generator: torch.Generator) -> None:
    """Encoding and decoding take the same steps as x + (s' - s) * v, in float64."""
    levels = FlowSchedule(shift=3.0, lowest=0.003).levels(50, 0.8)
    start = torch.randn(2, 4, 8, 8, generator=generator, dtype=torch.float64)
    for path in (levels, levels[::-1]):
        x = start
        for level, reached in pairwise(path):
            x = x + (reached.sigma - level.sigma) * velocity(x, level.sigma)
        ours = ddim(flow_eps, start, path)
        torch.testing.assert_close(ours, x, rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("solver", [ddim, dpmpp_2m])
@pytest.mark.parametrize("num_steps", [4, 50])
def test_guidance_from_pure_noise_loses_nothing_in_float32(
    generator: torch.Generator, num_steps: int, solver: Solver
) -> None:
    """A float32 latent follows the float64 one, though eps is nearly the latent itself there."""
    start = torch.randn(2, 4, 8, 8, generator=generator)
    levels = FlowSchedule().levels(num_steps)[::-1]

    def guided(latent: Tensor, level: Level) -> Tensor:
        eps, other = (
            eps_from_velocity(factor * velocity(latent, level.sigma), latent, level)
            for factor in (1.0, 0.9)
        )
        return other + 7.5 * (eps - other)

    ours = solver(guided, start, levels)
    assert ours.dtype == torch.float32
    theirs = solver(guided, start.double(), levels)
    assert float((ours - theirs).abs().max() / theirs.abs().max()) < 1e-5


@pytest.mark.parametrize("ratio", [0.5, 0.8, 0.98])
def test_round_trip_error_halves_with_twice_the_steps(
    generator: torch.Generator, ratio: float
) -> None:
    """The error of encoding and decoding decreases as for a first-order integrator."""
    schedule = FlowSchedule(shift=3.0, lowest=0.003)
    clean = torch.randn(1, 4, 8, 8, generator=generator, dtype=torch.float64)
    errors = []
    for num_steps in (50, 100, 200):
        levels = schedule.levels(num_steps, ratio)
        back = ddim(flow_eps, encode_trajectory(flow_eps, clean, levels)[:, -1], levels[::-1])
        errors.append(float((back - clean).square().mean().sqrt()))
    assert errors[0] / errors[1] > 1.6
    assert errors[1] / errors[2] > 1.6


def test_eps_from_velocity_inverts_the_definition(
    generator: torch.Generator, tolerance: dict
) -> None:
    """Given x = (1 - s) x0 + s eps and v = eps - x0, eps is recovered."""
    x0, eps = torch.randn(2, 3, 4, 8, 8, generator=generator, dtype=torch.float64)
    level = FlowSchedule().level_at(0.7)
    back = eps_from_velocity(eps - x0, 0.3 * x0 + 0.7 * eps, level)
    torch.testing.assert_close(back, eps, rtol=tolerance[torch.float64], atol=1e-12)
