"""What the mathematics knows of a network: a latent, a level and a condition in, eps out."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor, nn

from pipeline.diffusion.row_levels import RowLevels
from pipeline.diffusion.schedule import Level

Denoise = Callable[[Tensor, Level], Tensor]  # a denoiser whose condition is settled


@dataclass(frozen=True)
class Condition:
    """What a network is told besides latent and level: one row for each latent.

    Attributes:
        tokens: (N, L, D) the text encoder's hidden states.
        pooled: (N, P) or None, for families that want a summary of the text too.
    """

    tokens: Tensor
    pooled: Tensor | None = None

    def __len__(self) -> int:
        return len(self.tokens)

    def __getitem__(self, rows: slice | Tensor) -> Condition:
        pooled = None if self.pooled is None else self.pooled[rows]
        return Condition(self.tokens[rows], pooled)

    @classmethod
    def cat(cls, conditions: Sequence[Condition]) -> Condition:
        pooled = [condition.pooled for condition in conditions if condition.pooled is not None]
        return cls(
            torch.cat([condition.tokens for condition in conditions]),
            torch.cat(pooled) if pooled else None,
        )


@dataclass(frozen=True)
class Repeated(Condition):
    """A condition each of whose rows stands for several latents, one after the other.

    The copies are made for those rows that are asked for, and not for all at once: Stable Diffusion
    3 has 5 MB a text, and a mask asks about each text with ten noises.

    Attributes:
        times: how many latents a row stands for.
    """

    times: int = 1

    def __len__(self) -> int:
        return len(self.tokens) * self.times

    def __getitem__(self, rows: slice | Tensor) -> Condition:
        places = torch.arange(len(self), device=self.tokens.device)[rows] // self.times
        return Condition(self.tokens, self.pooled)[places]


class Counted:
    """A denoiser that counts its calls, so that rows tell what was spent."""

    def __init__(self, denoise: Denoise) -> None:
        self.denoise, self.num_calls = denoise, 0

    def __call__(self, latent: Tensor, level: Level) -> Tensor:
        self.num_calls += 1
        return self.denoise(latent, level)


class Denoiser(Protocol):
    """A network, adapted: whatever it was trained to predict, it answers with eps."""

    def __call__(self, latent: Tensor, level: Level, condition: Condition) -> Tensor:
        """Predicts the noise.

        Args:
            latent: (N, C, h, w) float32 at ``level``.
            level: one for all.
            condition: N rows.

        Returns:
            (N, C, h, w) float32.
        """
        ...


class TrainableDenoiser(Denoiser, Protocol):
    """A denoiser that can also be fitted: at a level of its own for each row, with gradients."""

    @property
    def network(self) -> nn.Module:
        """Whose weights a fine-tuning changes."""
        ...

    def __call__(self, latent: Tensor, level: Level | RowLevels, condition: Condition) -> Tensor:
        """As ``Denoiser``; gradients reach the condition and the network's weights."""
        ...
