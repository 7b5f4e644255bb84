"""Latents as the tokens of networks whose pipelines pack 2 x 2 cells into one."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor


def packed(latent: Tensor) -> Tensor:
    """(N, C, h, w) as (N, h / 2 * w / 2, 4 * C) tokens; h and w are even."""
    rows, channels, height, width = latent.shape
    cells = latent.reshape(rows, channels, height // 2, 2, width // 2, 2)
    return cells.permute(0, 2, 4, 1, 3, 5).flatten(3).flatten(1, 2)


def positions(height: int, width: int, axes: int, like: Tensor) -> Tensor:
    """(h * w, axes) on the device of ``like``, float32: row and column in axes 1 and 2, else 0.

    The pipelines of diffusers make them in main memory, and a copy from there would let the host
    wait in every call of the network until all calls before are done.
    """
    import torch

    found = torch.zeros(height, width, axes, dtype=torch.float32, device=like.device)
    found[..., 1] = torch.arange(height, device=like.device)[:, None]
    found[..., 2] = torch.arange(width, device=like.device)[None, :]
    return found.flatten(0, 1)


def text_positions(length: int, axes: int, like: Tensor) -> Tensor:
    """(length, axes) on the device of ``like``, float32: the token in the last axis, else 0."""
    import torch

    found = torch.zeros(length, axes, dtype=torch.float32, device=like.device)
    found[:, -1] = torch.arange(length, device=like.device)
    return found


def unpacked(tokens: Tensor, height: int, width: int) -> Tensor:
    """The inverse of ``packed``, for a latent of this size in cells."""
    cells = tokens.reshape(len(tokens), height // 2, width // 2, -1, 2, 2)
    return cells.permute(0, 3, 1, 4, 2, 5).reshape(len(tokens), -1, height, width)
