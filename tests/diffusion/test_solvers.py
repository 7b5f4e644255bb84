"""DDIM, and properties of all solvers, which both encode and decode."""

from __future__ import annotations

from functools import partial
from itertools import pairwise

import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler
from torch import Tensor

from pipeline.diffusion.ddim import ancestral_ddim, ddim
from pipeline.diffusion.latents import blend
from pipeline.diffusion.schedule import Level
from pipeline.diffusion.solvers import SOLVERS, encode_trajectory
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
from tests.reference import ddim as reference
from tests.reference.solvers import ancestral_step


def test_one_step_solved_by_hand() -> None:
    """From alpha 1, tau 0 to alpha 0.6, tau 4/3 with eps 3: x = 0.6 * (2 + 4/3 * 3) = 3.6."""
    levels = [Level(0, 0, 1.0, 0.0), Level(1, 1, 0.6, 0.8)]
    reached = ddim(lambda x, level: torch.full_like(x, 3.0), torch.tensor([2.0]), levels)
    assert reached.item() == pytest.approx(3.6, rel=1e-6)


def test_encoding_agrees_with_the_paper(generator: torch.Generator, tolerance: dict) -> None:
    """Every level of a 40-step encoding equals the float64 reference."""
    levels = SCHEDULE.levels(50, 0.8)
    latent = torch.randn(2, 4, 8, 8, generator=generator)
    ours = encode_trajectory(network, latent, levels)
    a = cumulative_alphas(levels)
    theirs = np.stack(reference.encode(network_float64, latent.double().numpy(), a), axis=1)
    assert relative_error(ours, theirs) < tolerance[torch.float32]
    assert torch.equal(ours[:, 0], latent)


def test_masked_decoding_agrees_with_the_paper(generator: torch.Generator, tolerance: dict) -> None:
    """A 40-step decoding with a blend after each step equals the float64 reference."""
    levels = SCHEDULE.levels(50, 0.8)
    trajectory = torch.randn(41, 4, 8, 8, generator=generator)
    mask = (torch.rand(1, 8, 8, generator=generator) > 0.5).float()
    ours = ddim(
        network,
        trajectory[-1],
        levels[::-1],
        lambda x, reached: blend(x, trajectory[reached.index], mask),
    )
    a = cumulative_alphas(levels)
    xs = list(trajectory.double().numpy())
    theirs = reference.masked_decode(network_float64, xs, a, mask.double().numpy())
    assert relative_error(ours, theirs) < tolerance[torch.float32]
    assert torch.equal(ours[:, mask[0] == 0], trajectory[0][:, mask[0] == 0])


def test_encoding_visits_the_levels_of_decoding_reversed() -> None:
    """Both directions reach the same timesteps, with one network call per step."""
    levels = SCHEDULE.levels(50, 0.8)
    called: list[float] = []
    reached: list[float] = []

    def denoise(latent: Tensor, level: Level) -> Tensor:
        called.append(level.timestep)
        return latent

    def note(latent: Tensor, level: Level) -> Tensor:
        reached.append(level.timestep)
        return latent

    ddim(denoise, torch.zeros(1), levels, note)
    up, called_up = [0, *reached], list(called)
    called.clear()
    reached.clear()
    ddim(denoise, torch.zeros(1), levels[::-1], note)
    down = [781, *reached]
    assert up == down[::-1]
    assert (len(called_up), len(called)) == (40, 40)
    assert (called_up[0], called_up[-1], called[0], called[-1]) == (0, 761, 781, 1)


def test_constant_eps_is_inverted_exactly() -> None:
    """If eps is the same at all levels, decoding is the exact inverse of encoding."""
    levels = SCHEDULE.levels(50, 0.8)
    latent = torch.linspace(-2, 2, 64, dtype=torch.float64)
    eps = torch.linspace(1, -1, 64, dtype=torch.float64)
    noisy = ddim(lambda x, level: eps, latent, levels)
    assert not torch.allclose(noisy, latent)
    back = ddim(lambda x, level: eps, noisy, levels[::-1])
    torch.testing.assert_close(back, latent, rtol=1e-12, atol=1e-12)


def test_encoding_converges_to_the_true_solution() -> None:
    """For normal data the ODE has a closed-form solution; twice the steps halve the error."""
    latent = torch.linspace(-1, 1, 16, dtype=torch.float64)
    errors = []
    for num_steps in (25, 50, 100, 200):
        levels = SCHEDULE.levels(num_steps, 0.8)
        encoded = ddim(gaussian_eps, latent, levels)
        exact = gaussian_flow(latent, levels[0], levels[-1])
        errors.append(float((encoded - exact).abs().max()))
    ratios = [coarse / fine for coarse, fine in pairwise(errors)]
    assert all(1.6 < ratio < 2.4 for ratio in ratios), (errors, ratios)


def test_round_trip_is_better_with_more_steps() -> None:
    """Encoding and decoding returns the input; twice the steps halve the error."""
    latent = torch.linspace(-1, 1, 16, dtype=torch.float64)
    errors = []
    for num_steps in (12, 25, 50, 100):
        levels = SCHEDULE.levels(num_steps, 0.8)
        back = ddim(gaussian_eps, ddim(gaussian_eps, latent, levels), levels[::-1])
        errors.append(float((back - latent).abs().max()))
    assert errors[2] < 0.1
    assert all(coarse > 1.5 * fine for coarse, fine in pairwise(errors))


@pytest.mark.parametrize("name", SOLVERS)
def test_every_solver_reaches_every_level(name: str) -> None:
    """In both directions each solver reaches all levels in order and uses after_step's result."""
    levels = SCHEDULE.levels(20, 0.8)
    for path in (levels, levels[::-1]):
        reached: list[Level] = []

        def note(latent: Tensor, level: Level, reached: list[Level] = reached) -> Tensor:
            reached.append(level)
            return latent + 1.0

        latent = torch.zeros(1)
        ended = SOLVERS[name](lambda x, level: torch.zeros(1), latent, path, note)
        assert reached == path[1:]
        assert float(ended) > 1.0


@pytest.mark.parametrize("ddim_eta", [0.3, 1.0])
def test_ancestral_sampling_agrees_with_the_paper(
    ddim_eta: float, generator: torch.Generator, tolerance: dict
) -> None:
    """40 steps with fresh noise at each step equal equations 12 and 16 in float64."""
    levels = SCHEDULE.levels(50, 0.8)[::-1]
    latent, *draws = torch.randn(41, 2, 4, 8, 8, generator=generator)
    solver = partial(ancestral_ddim, ddim_eta=ddim_eta, draw=lambda level: draws[level.index])
    ours = solver(network, latent, levels)
    a, x = cumulative_alphas(levels), latent.double().numpy()
    for k in range(40):
        index = levels[k].index
        z = draws[levels[k + 1].index].double().numpy()
        x = ancestral_step(x, network_float64(x, index), z, a[k], a[k + 1], ddim_eta)
    assert relative_error(ours, x) < tolerance[torch.float32]


def test_ancestral_sampling_equals_diffusers(generator: torch.Generator) -> None:
    """DDIMScheduler with eta 0.7 and the same noises gives the same latent to 1e-4."""
    levels = SCHEDULE.levels(50)[::-1]
    latent, *draws = torch.randn(51, 2, 4, 8, 8, generator=generator)
    scheduler = DDIMScheduler.from_config(STABLE_DIFFUSION, clip_sample=False)
    scheduler.set_timesteps(50)
    theirs = latent
    for level, timestep in zip(levels, scheduler.timesteps, strict=False):
        eps, z = network(theirs, level), draws[level.index - 1]
        theirs = scheduler.step(eps, timestep, theirs, eta=0.7, variance_noise=z).prev_sample
    ours = ancestral_ddim(
        network, latent, levels, ddim_eta=0.7, draw=lambda level: draws[level.index]
    )
    assert relative_error(ours, theirs.double().numpy()) < 1e-4


def test_ancestral_sampling_without_eta_is_ddim(generator: torch.Generator) -> None:
    """With eta 0 the fresh noise has no weight."""
    levels = SCHEDULE.levels(20)[::-1]
    latent = torch.randn(2, 4, 8, 8, generator=generator)
    ours = ancestral_ddim(network, latent, levels, ddim_eta=0.0, draw=lambda level: latent)
    torch.testing.assert_close(ours, ddim(network, latent, levels))
