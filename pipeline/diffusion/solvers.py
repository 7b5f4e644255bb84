"""The solvers by name, and encoding that keeps the whole trajectory."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from pipeline.diffusion.ddim import ddim
from pipeline.diffusion.denoiser import Denoise
from pipeline.diffusion.dpmpp import dpmpp_2m
from pipeline.diffusion.schedule import Level
from pipeline.diffusion.solver import Solver

SOLVERS: dict[str, Solver] = {"ddim": ddim, "dpmpp_2m": dpmpp_2m}  # method.solver


def encode_trajectory(
    denoise: Denoise, latent: Tensor, levels: Sequence[Level], *, solver: Solver = ddim
) -> Tensor:
    """Encodes a clean latent and keeps the latent at every level.

    Args:
        denoise: unconditional in DiffEdit: the empty text, no guidance.
        latent: (N, C, h, w) float32, clean.
        levels: K + 1, ascending from level 0.
        solver: the integrator.

    Returns:
        (N, K + 1, C, h, w) float32; [:, 0] is the clean latent itself.

    Source: DiffEdit, step 2.
    """
    trajectory = [latent]

    def keep(latent: Tensor, reached: Level) -> Tensor:
        trajectory.append(latent)
        return latent

    solver(denoise, latent, levels, keep)
    return torch.stack(trajectory, dim=1)
