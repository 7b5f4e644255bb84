"""BDIA at gamma 1: the paper's update, exactly undone by itself."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from pipeline.diffusion.bdia import bdia
from pipeline.diffusion.ddim import ddim
from pipeline.diffusion.schedule import Level
from pipeline.diffusion.solvers import encode_trajectory
from tests.diffusion.networks import (
    SCHEDULE,
    cumulative_alphas,
    network,
    network_float64,
    relative_error,
)
from tests.reference import solvers as reference


def test_encoding_agrees_with_the_paper(generator: torch.Generator, tolerance: dict) -> None:
    """Every level of 40 steps upwards equals the float64 transcription."""
    levels = SCHEDULE.levels(50, 0.8)
    latent = torch.randn(2, 4, 8, 8, generator=generator)
    ours = encode_trajectory(network, latent, levels, solver=bdia)
    a = cumulative_alphas(levels)
    theirs = reference.bdia_encode(network_float64, latent.double().numpy(), a)
    assert relative_error(ours, np.stack(theirs, axis=1)) < tolerance[torch.float32]


def test_decoding_agrees_with_the_paper(generator: torch.Generator, tolerance: dict) -> None:
    """From two states at the top, 40 levels down equal the paper's update at gamma 1."""
    levels = SCHEDULE.levels(50, 0.8)
    top = torch.randn(2, 4, 8, 8, generator=generator)
    below = ddim(network, top, levels[:-3:-1])
    ours = bdia(network, top, levels[::-1], neighbour=below)
    theirs = reference.bdia_decode(
        network_float64, top.double().numpy(), below.double().numpy(), cumulative_alphas(levels)
    )
    assert relative_error(ours, theirs) < tolerance[torch.float32]


@pytest.mark.parametrize("num_steps", [2, 3, 12, 50, 100])
def test_decoding_undoes_encoding(num_steps: int, generator: torch.Generator) -> None:
    """However coarse the steps and whatever the network, the input comes back to 1e-4."""
    levels = SCHEDULE.levels(num_steps, 0.8)
    latent = torch.randn(2, 4, 8, 8, generator=generator)
    trajectory = encode_trajectory(network, latent, levels, solver=bdia)
    back = bdia(network, trajectory[:, -1], levels[::-1], neighbour=trajectory[:, -2])
    assert float((back - latent).square().mean().sqrt() / latent.std()) < 1e-4
    plain = ddim(network, ddim(network, latent, levels), levels[::-1])
    assert float((plain - latent).square().mean().sqrt()) > 1e-2


def test_gamma_of_one_half_is_unstable(generator: torch.Generator) -> None:
    """The reason for gamma 1: the inverse at gamma 0.5 doubles every rounding error."""
    levels = SCHEDULE.levels(50, 0.8)
    top = torch.randn(1, 1, 4, 4, generator=generator).double().numpy()
    below = ddim(network, torch.from_numpy(top), levels[:-3:-1]).numpy()
    nudged = below + 1e-9
    a = cumulative_alphas(levels)

    def sensitivity(gamma: float) -> float:
        """How far apart the inverse ends for states that differ by 1e-9 at its start."""
        ends = []
        for z in (below, nudged):
            z_below, z_here = z, top
            for i in range(len(a) - 2, 0, -1):  # the paper's inverse, run over the same levels
                eps = network_float64(z_here, i)
                x0 = (z_here - np.sqrt(1 - a[i]) * eps) / np.sqrt(a[i])
                lower, upper = (
                    np.sqrt(a[j]) * x0 + np.sqrt(1 - a[j]) * eps for j in (i - 1, i + 1)
                )
                z_below, z_here = z_here, (z_below - lower) / gamma + upper
            ends.append(z_here)
        return float(np.abs(ends[1] - ends[0]).max()) / 1e-9

    assert sensitivity(0.5) > 1e3 * sensitivity(1.0)


def test_network_is_asked_at_the_same_timesteps_both_ways() -> None:
    """Decoding asks at what encoding asked at, reversed, but for the first step out of level 0."""
    levels = SCHEDULE.levels(50, 0.8)
    asked: list[float] = []

    def denoise(latent: Tensor, level: Level) -> Tensor:
        asked.append(level.timestep)
        return latent

    trajectory = encode_trajectory(denoise, torch.ones(1, 1), levels, solver=bdia)
    up = asked.copy()
    asked.clear()
    bdia(denoise, trajectory[:, -1], levels[::-1], neighbour=trajectory[:, -2])
    assert up == [0, *asked[::-1]]
    assert len(asked) == 39


def test_one_step_is_ddims(generator: torch.Generator) -> None:
    """Two states would leave nothing to decode: with one step the network is asked."""
    levels = SCHEDULE.levels(50, 0.02)
    assert len(levels) == 2
    latent, other = torch.randn(2, 2, 4, 8, 8, generator=generator)
    ours = bdia(network, latent, levels[::-1], neighbour=other)
    assert torch.equal(ours, ddim(network, latent, levels[::-1]))
    assert torch.equal(bdia(network, latent, levels[:1]), latent)
