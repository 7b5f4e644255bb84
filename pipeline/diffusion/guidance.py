"""Classifier-free guidance, with both conditions in one network call."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from pipeline.diffusion.denoiser import Condition, Denoise, Denoiser, Norm
from pipeline.diffusion.schedule import Level


def conditioned(denoiser: Denoiser, text: Condition) -> Denoise:
    """The denoiser with a fixed condition and no guidance: one evaluation per latent."""

    def denoise(latent: Tensor, level: Level) -> Tensor:
        return denoiser(latent, level, text)

    return denoise


class Guided:
    """A denoiser with guidance whose condition is fixed; counts each row's network evaluations."""

    def __init__(
        self,
        denoiser: Denoiser,
        text: Condition,
        negative: Condition,
        scale: Tensor,
        is_guided_at: Callable[[int], bool],
    ) -> None:
        self.denoiser, self.text, self.scale = denoiser, text, scale
        self.embedded = None if text.guidance is None else text.with_guidance(scale)
        alone = bool((scale == 1.0).all()) or self.embedded is not None
        self.both = None if alone else Condition.cat([negative, text])
        self.is_guided_at = is_guided_at
        self.num_evals = 0

    def __call__(self, latent: Tensor, level: Level) -> Tensor:
        is_guided = self.is_guided_at(level.index)
        if self.both is None or not is_guided:
            self.num_evals += 1
            text = self.embedded if self.embedded is not None and is_guided else self.text
            return self.denoiser(latent, level, text)
        self.num_evals += 2
        both = self.denoiser(torch.cat([latent, latent]), level, self.both)
        eps_negative, eps_text = both.chunk(2)
        eps = eps_negative + self.scale.view(-1, 1, 1, 1) * (eps_text - eps_negative)
        if self.text.kept_norm is None:
            return eps
        return with_norm_of(eps_text, eps, latent, self.text.kept_norm)


def with_norm_of(eps_text: Tensor, eps: Tensor, latent: Tensor, norm: Norm) -> Tensor:
    """Scales a flow's velocity to the norm of another; both are given as eps.

    Args:
        eps_text: (N, C, h, w) float32, of the velocity that has the norm.
        eps: same shape, of the velocity to scale.
        latent: same shape, where both are. eps - latent is a velocity times 1 - s, see
            ``flow_schedule``; the factor is the same for both, and cancels.
        norm: of a velocity.

    Returns:
        (N, C, h, w) float32, the scaled velocity as eps. A velocity of norm 0 stays as it is.
    """
    velocity = eps - latent
    smallest = torch.finfo(velocity.dtype).tiny
    return latent + velocity * (norm(eps_text - latent) / norm(velocity).clamp_min(smallest))


def everywhere(index: int) -> bool:
    """Guidance at every level."""
    return True


def guided(
    denoiser: Denoiser,
    text: Condition,
    negative: Condition,
    scale: Tensor,
    is_guided_at: Callable[[int], bool] = everywhere,
) -> Guided:
    """The denoiser with guidance: two evaluations per latent, or one when all scales are 1.

    Args:
        denoiser: the network.
        text: N rows, the wanted content.
        negative: N rows, the unwanted content; the empty text in the papers.
        scale: (N,) float32, all 1 or all above 1.
        is_guided_at: of a level's index; where it is false, only the text is evaluated.

    Returns:
        eps_negative + scale * (eps_text - eps_negative) as a function of latent and level. A
        network that takes the scale as an input is evaluated once, with the text and its scale.
        ``Condition.kept_norm`` says what some families do to the sum.

    Source: Ho and Salimans, arXiv:2207.12598, with scale = 1 + their w; the interval of levels is
    that of Kynkäänniemi et al., arXiv:2404.07724.
    """
    return Guided(denoiser, text, negative, scale, is_guided_at)
