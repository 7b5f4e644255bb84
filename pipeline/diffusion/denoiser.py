"""The interface of a network: it takes a latent, a level and a condition, and returns eps."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor, nn

from pipeline.diffusion.row_levels import RowLevels
from pipeline.diffusion.schedule import Level

Denoise = Callable[[Tensor, Level], Tensor]  # a denoiser whose condition is fixed


@dataclass(frozen=True)
class Condition:
    """What the network is conditioned on, besides latent and level: one row for each latent.

    Attributes:
        tokens: (N, L, D) the text encoder's hidden states.
        pooled: (N, P) the pooled text embedding; None for families that do not use it.
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
    """A condition in which each row serves several consecutive latents.

    Indexing copies only the rows that it selects. A full copy would be large: a condition of
    Stable Diffusion 3 takes 5 MB, and mask inference uses each text with ten noises.

    Attributes:
        times: how many latents each row serves.
    """

    times: int = 1

    def __len__(self) -> int:
        return len(self.tokens) * self.times

    def __getitem__(self, rows: slice | Tensor) -> Condition:
        sources = torch.arange(len(self), device=self.tokens.device)[rows] // self.times
        return Condition(self.tokens, self.pooled)[sources]


class Counted:
    """A denoiser that counts its calls, so that each row can report its network evaluations."""

    def __init__(self, denoise: Denoise) -> None:
        self.denoise, self.num_calls = denoise, 0

    def __call__(self, latent: Tensor, level: Level) -> Tensor:
        self.num_calls += 1
        return self.denoise(latent, level)


class Denoiser(Protocol):
    """A network that predicts eps, whatever its weights were trained to predict."""

    def __call__(self, latent: Tensor, level: Level, condition: Condition) -> Tensor:
        """Predicts the noise.

        Args:
            latent: (N, C, h, w) float32 at ``level``.
            level: the same for all rows.
            condition: N rows.

        Returns:
            (N, C, h, w) float32.
        """
        ...


class TrainableDenoiser(Denoiser, Protocol):
    """A denoiser that can also be trained: it accepts a level per row and passes gradients."""

    @property
    def network(self) -> nn.Module:
        """The network whose weights fine-tuning changes."""
        ...

    def __call__(self, latent: Tensor, level: Level | RowLevels, condition: Condition) -> Tensor:
        """As ``Denoiser``; gradients reach the condition and the network's weights."""
        ...
