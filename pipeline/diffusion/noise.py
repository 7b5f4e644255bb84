"""The only place where noise is drawn: on the CPU, in float32, from a seed that names the draw."""

from __future__ import annotations

import torch
from torch import Tensor

from pipeline.diffusion.schedule import Level


def draw_noise(seed: int, shape: tuple[int, ...]) -> Tensor:
    """Standard normal noise, from a generator of its own.

    Args:
        seed: from ``pipeline.words.seeds.noise_seed``, in [0, 2**63).
        shape: of the result.

    Returns:
        float32 on the CPU, the same on every machine of a kind whatever is drawn elsewhere.
    """
    generator = torch.Generator(device="cpu").manual_seed(seed)
    return torch.randn(shape, generator=generator, dtype=torch.float32, device="cpu")


def add_noise(latent: Tensor, noise: Tensor, level: Level) -> Tensor:
    """A clean latent taken to a level: alpha * latent + sigma * noise; shapes broadcast."""
    return level.alpha * latent + level.sigma * noise
