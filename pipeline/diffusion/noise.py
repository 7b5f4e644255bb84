"""The only place where noise is drawn: on the CPU, in float32, from an explicit seed."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from pipeline.diffusion.row_levels import RowLevels
from pipeline.diffusion.schedule import Level


def draw_noise(seed: int, shape: tuple[int, ...]) -> Tensor:
    """Standard normal noise, from a generator of its own.

    Args:
        seed: from ``pipeline.records.seeds.noise_seed``, in [0, 2**63).
        shape: of the result.

    Returns:
        float32 on the CPU. It depends on seed and shape alone: every machine of one kind draws
        the same, and other draws have no effect on it.
    """
    generator = torch.Generator(device="cpu").manual_seed(seed)
    return torch.randn(shape, generator=generator, dtype=torch.float32, device="cpu")


def draw_fit(
    seed: int, shape: tuple[int, ...], noise_range: tuple[float, float]
) -> Iterator[tuple[list[float], Tensor]]:
    """An endless stream of the random draws of an optimization: levels and one noise for each.

    Args:
        seed: as for ``draw_noise``; step n always draws the same.
        shape: of the noises of one step, (M, C, h, w).
        noise_range: range of the levels, as shares of the schedule; levels are uniform in it.

    Yields:
        For each step, M levels as shares of the schedule, and the noises, float32 on the CPU.
    """
    generator = torch.Generator(device="cpu").manual_seed(seed)
    low, high = noise_range
    while True:
        uniform = torch.rand(shape[0], generator=generator, dtype=torch.float64, device="cpu")
        noise = torch.randn(shape, generator=generator, dtype=torch.float32, device="cpu")
        yield (low + (high - low) * uniform).tolist(), noise


def add_noise(latent: Tensor, noise: Tensor, level: Level | RowLevels) -> Tensor:
    """Noises a clean latent to a level: alpha * latent + sigma * noise; shapes broadcast."""
    return level.alpha * latent + level.sigma * noise
