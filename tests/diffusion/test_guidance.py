"""Guidance: the formula, and the number of network evaluations."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from pipeline.diffusion.denoiser import Condition
from pipeline.diffusion.guidance import guided
from pipeline.diffusion.schedule import Level
from tests.reference.ddim import guidance

LEVEL = Level(1, 1, 0.8, 0.6)


class Counting:
    """A denoiser that records the number of rows of each call."""

    def __init__(self) -> None:
        self.rows: list[int] = []

    def __call__(self, latent: Tensor, level: Level, condition: Condition) -> Tensor:
        self.rows.append(len(latent))
        return latent * condition.tokens.mean(dim=(1, 2)).view(-1, 1, 1, 1)


def conditions(generator: torch.Generator, num_rows: int = 3) -> tuple[Condition, Condition]:
    text, negative = torch.randn(2, num_rows, 5, 6, generator=generator)
    return Condition(text), Condition(negative)


def test_guidance_agrees_with_the_paper(generator: torch.Generator, tolerance: dict) -> None:
    """Each row is extrapolated by its own scale, as in the float64 reference."""
    text, negative = conditions(generator)
    latent = torch.randn(3, 4, 8, 8, generator=generator)
    scale = torch.tensor([1.5, 7.5, 3.0])
    ours = guided(Counting(), text, negative, scale)(latent, LEVEL)
    for row in range(3):
        eps_text = (latent[row].double() * text.tokens[row].double().mean()).numpy()
        eps_empty = (latent[row].double() * negative.tokens[row].double().mean()).numpy()
        theirs = torch.from_numpy(guidance(eps_text, eps_empty, float(scale[row])))
        error = (ours[row].double() - theirs).abs().max() / theirs.abs().max()
        assert error < tolerance[torch.float32]


def channel_norm(velocity: Tensor) -> Tensor:
    return velocity.norm(dim=1, keepdim=True)


@pytest.mark.parametrize("alpha", [0.8, 2.0**-15])
def test_guidance_keeps_the_norm_of_the_text(alpha: float, generator: torch.Generator) -> None:
    """The velocity has the direction of the guided one, and the norm of the text's own.

    In float64, even where eps holds little of the velocity: near pure noise.
    """
    text, negative = conditions(generator)
    latent = torch.randn(3, 4, 8, 8, generator=generator, dtype=torch.float64)
    level = Level(1, 1, alpha, 1.0 - alpha)
    scale = torch.tensor([1.5, 7.5, 3.0])
    plain, by_text = (
        (guided(Counting(), text, negative, scales)(latent, level) - latent) / alpha
        for scales in (scale, torch.ones(3))
    )
    text = replace(text, kept_norm=channel_norm)
    kept = (guided(Counting(), text, negative, scale)(latent, level) - latent) / alpha
    torch.testing.assert_close(channel_norm(kept), channel_norm(by_text))
    along = (kept * plain).sum(1) / (channel_norm(kept) * channel_norm(plain))[:, 0]
    torch.testing.assert_close(along, torch.ones_like(along))
    still = guided(Counting(), text, negative, scale)(torch.zeros_like(latent), level)
    assert torch.equal(still, torch.zeros_like(latent))  # a norm of 0 divides nothing


@pytest.mark.parametrize(("scale", "rows"), [(7.5, [6]), (1.0, [3])])
def test_both_halves_are_one_call(
    scale: float, rows: list[int], generator: torch.Generator
) -> None:
    """With guidance one call has 2 N rows; without it the negative half is not computed."""
    network = Counting()
    text, negative = conditions(generator)
    latent = torch.randn(3, 4, 8, 8, generator=generator)
    eps = guided(network, text, negative, torch.full((3,), scale))(latent, LEVEL)
    assert network.rows == rows
    if scale == 1.0:
        assert torch.equal(eps, Counting()(latent, LEVEL, text))
