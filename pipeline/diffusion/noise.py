"""The only place where noise is drawn: on the CPU, in float32, from a seed that names the draw."""

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
        float32 on the CPU, the same on every machine of a kind whatever is drawn elsewhere.
    """
    generator = torch.Generator(device="cpu").manual_seed(seed)
    return torch.randn(shape, generator=generator, dtype=torch.float32, device="cpu")


def draw_fit(
    seed: int, shape: tuple[int, ...], noise_range: tuple[float, float]
) -> Iterator[tuple[list[float], Tensor]]:
    """Without end, what each step of a fit draws: levels, and a noise for each of them.

    Args:
        seed: as above; the n-th step's draws are the same whatever else is drawn.
        shape: of a step's noises, (M, C, h, w).
        noise_range: shares of the schedule that the levels are uniform in.

    Yields:
        M shares of the schedule, and the noises, float32 on the CPU.
    """
    generator = torch.Generator(device="cpu").manual_seed(seed)
    low, high = noise_range
    while True:
        uniform = torch.rand(shape[0], generator=generator, dtype=torch.float64, device="cpu")
        noise = torch.randn(shape, generator=generator, dtype=torch.float32, device="cpu")
        yield (low + (high - low) * uniform).tolist(), noise


def add_noise(latent: Tensor, noise: Tensor, level: Level | RowLevels) -> Tensor:
    """A clean latent taken to a level: alpha * latent + sigma * noise; shapes broadcast."""
    return level.alpha * latent + level.sigma * noise
