"""Classifier-free guidance, with both conditions in one network call."""

from __future__ import annotations

import torch
from torch import Tensor

from pipeline.diffusion.denoiser import Condition, Denoise, Denoiser
from pipeline.diffusion.schedule import Level


def conditioned(denoiser: Denoiser, text: Condition) -> Denoise:
    """The denoiser with a fixed condition and no guidance: one evaluation per latent."""

    def denoise(latent: Tensor, level: Level) -> Tensor:
        return denoiser(latent, level, text)

    return denoise


def guided(denoiser: Denoiser, text: Condition, negative: Condition, scale: Tensor) -> Denoise:
    """The denoiser with guidance: two evaluations per latent, or one when all scales are 1.

    Args:
        denoiser: the network.
        text: N rows, the wanted content.
        negative: N rows, the unwanted content; the empty text in the papers.
        scale: (N,) float32, all 1 or all above 1.

    Returns:
        eps_negative + scale * (eps_text - eps_negative) as a function of latent and level.

    Source: Ho and Salimans, arXiv:2207.12598, with scale = 1 + their w.
    """
    if bool((scale == 1.0).all()):
        return conditioned(denoiser, text)
    both = Condition.cat([negative, text])
    scale_N111 = scale.view(-1, 1, 1, 1)

    def denoise(latent: Tensor, level: Level) -> Tensor:
        eps_negative, eps_text = denoiser(torch.cat([latent, latent]), level, both).chunk(2)
        return eps_negative + scale_N111 * (eps_text - eps_negative)

    return denoise
