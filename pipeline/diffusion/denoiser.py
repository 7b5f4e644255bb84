"""The interface of a network: it takes a latent, a level and a condition, and returns eps."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from pipeline.diffusion.row_levels import RowLevels
from pipeline.diffusion.schedule import Level
from pipeline.diffusion.transfer import upload

Denoise = Callable[[Tensor, Level], Tensor]  # a denoiser whose condition is fixed
Norm = Callable[[Tensor], Tensor]  # of a velocity (N, C, h, w); broadcasts against it


@dataclass(frozen=True)
class Condition:
    """What the network is conditioned on, besides latent and level: one row for each latent.

    Attributes:
        tokens: (N, L, D) the text encoder's hidden states.
        pooled: (N, P) the pooled text embedding; None for families that do not use it.
        mask: (N, L) bool, which tokens are a text's; the others are padding, and the network does
            not see them. None: all are, padding included, as in families with texts of one length.
        guidance: (N,) float32, the scale, for families whose network takes it as an input.
        kept_norm: guidance scales its velocity to this norm of the text's own velocity; None: it
            scales nothing.
        lengths: (N,) int64 in main memory, how many tokens are a text's, from the first on; for
            families whose network is called with the lengths, which the host would wait for.
    """

    tokens: Tensor
    pooled: Tensor | None = None
    mask: Tensor | None = None
    guidance: Tensor | None = None
    kept_norm: Norm | None = None
    lengths: Tensor | None = None

    def __len__(self) -> int:
        return len(self.tokens)

    def __getitem__(self, rows: slice | Tensor) -> Condition:
        """These rows: a slice, or their numbers in main memory."""
        there = rows if isinstance(rows, slice) else upload(rows, self.tokens.device)
        pooled, mask, guidance = (
            None if one is None else one[there] for one in (self.pooled, self.mask, self.guidance)
        )
        lengths = None if self.lengths is None else self.lengths[rows]
        return Condition(self.tokens[there], pooled, mask, guidance, self.kept_norm, lengths)

    @classmethod
    def cat(cls, conditions: Sequence[Condition]) -> Condition:
        """The rows of all. Shorter texts are padded with zeros to the longest, and masked."""
        pooled = [condition.pooled for condition in conditions if condition.pooled is not None]
        guidance = [c.guidance for c in conditions if c.guidance is not None]
        length = max(condition.tokens.shape[1] for condition in conditions)
        lengths = [c.lengths for c in conditions if c.lengths is not None]
        masked = any(
            condition.mask is not None or condition.tokens.shape[1] < length
            for condition in conditions
        )
        return cls(
            torch.cat([_padded(condition.tokens, length) for condition in conditions]),
            torch.cat(pooled) if pooled else None,
            torch.cat([_padded(c.seen(), length) for c in conditions]) if masked else None,
            torch.cat(guidance) if guidance else None,
            conditions[0].kept_norm,
            torch.cat(lengths) if masked and len(lengths) == len(conditions) else None,
        )

    @classmethod
    def of_rows(cls, texts: Sequence[Tensor]) -> Condition:
        """A row for each text, (L, D) each; their lengths may differ."""
        seen = torch.ones(1, 1, dtype=torch.bool, device=texts[0].device)
        rows = [
            cls(text[None], mask=seen.expand(1, len(text)), lengths=torch.tensor([len(text)]))
            for text in texts
        ]
        return cls.cat(rows)

    def rows(self) -> list[Tensor]:
        """(L, D) of each row without its padding, for networks that take texts one by one."""
        if self.lengths is None:
            return list(self.tokens)
        lengths = self.lengths.tolist()
        return [tokens[:length] for tokens, length in zip(self.tokens, lengths, strict=True)]

    def seen(self) -> Tensor:
        """(N, L) bool: the mask, or all true without one."""
        if self.mask is not None:
            return self.mask
        return torch.ones(self.tokens.shape[:2], dtype=torch.bool, device=self.tokens.device)

    def to(self, dtype: torch.dtype) -> Condition:
        """The same with tokens and pooled embedding in another dtype."""
        pooled = None if self.pooled is None else self.pooled.to(dtype)
        return replace(self, tokens=self.tokens.to(dtype), pooled=pooled)

    def with_tokens(self, tokens: Tensor) -> Condition:
        """The same rows with other tokens, of the same lengths."""
        return replace(self, tokens=tokens)

    def with_guidance(self, scale: float | Tensor) -> Condition:
        """The same rows with a guidance scale for the network, one or (N,)."""
        device = self.tokens.device
        if isinstance(scale, Tensor):
            scales = scale.to(device, torch.float32)
        else:  # written there: a copy would make the host wait
            scales = torch.full((), scale, dtype=torch.float32, device=device)
        return replace(self, guidance=scales.expand(len(self)))


def _padded(rows: Tensor, length: int) -> Tensor:
    """(N, L, ...) as (N, length, ...), filled with zeros."""
    missing = length - rows.shape[1]
    if not missing:
        return rows
    return torch.cat([rows, rows.new_zeros(len(rows), missing, *rows.shape[2:])], dim=1)


@dataclass(frozen=True)
class Repeated(Condition):
    """A condition in which each row serves several consecutive latents.

    Indexing copies only the rows that it selects. A full copy would be large: a condition of
    Stable Diffusion 3 takes 5 MB, and mask inference uses each text with ten noises.

    Attributes:
        times: how many latents each row serves.
    """

    times: int = 1

    @classmethod
    def of(cls, condition: Condition, times: int) -> Repeated:
        """Each row of a condition, so many times."""
        return cls(**_own(condition), times=times)

    def __len__(self) -> int:
        return len(self.tokens) * self.times

    def __getitem__(self, rows: slice | Tensor) -> Condition:
        sources = torch.arange(len(self))[rows] // self.times
        return Condition(**_own(self))[sources]


def _own(condition: Condition) -> dict[str, Any]:
    """What a condition holds, besides what a subclass adds."""
    return {each.name: getattr(condition, each.name) for each in fields(Condition)}


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
            (N, C, h, w) float32; float64 where float32 does not hold it.
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
