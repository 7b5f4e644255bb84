"""The region that is decoded: the whole latent grid, or a box around each edit's mask.

The encoded trajectory has the background at every level, so decoding does not need to compute it:
the network gets only the mask's box with some context.

# N edits, C channels, h w latent grid, s side of a box
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from pipeline.config.method import Decode


@dataclass(frozen=True)
class Box:
    """Rows ``top`` to ``top + height`` and columns ``left`` to ``left + width`` of the grid."""

    top: int
    left: int
    height: int
    width: int

    def of(self, tensor: Tensor) -> Tensor:
        """A view of (..., h, w): (..., height, width)."""
        return tensor[..., self.top : self.top + self.height, self.left : self.left + self.width]


def box_around(edit_mask: np.ndarray, *, context: int, multiple: int) -> Box:
    """The square around a mask and its context, limited to the grid.

    Its side is a multiple of ``multiple``, so that the edits of a part have few shapes. The mask
    is centered in it unless that would leave the grid.

    Args:
        edit_mask: (h, w) float32, 1 = edit; not all 0.
        context: minimum number of cells around the mask.
        multiple: the side is a multiple of this, or the grid's side if that is smaller.
    """
    rows, columns = (np.flatnonzero((edit_mask > 0).any(axis)) for axis in (1, 0))
    longest = max(rows[-1] - rows[0], columns[-1] - columns[0]) + 1
    side = -(-(int(longest) + 2 * context) // multiple) * multiple
    (top, height), (left, width) = (
        _span(int(cells[0]), int(cells[-1]) + 1, side, length)
        for cells, length in zip((rows, columns), edit_mask.shape, strict=True)
    )
    return Box(top, left, height, width)


@dataclass(frozen=True)
class Region:
    """The part of the grid that edits are decoded in: a box each, of one shape; None: all of it."""

    boxes: tuple[Box, ...] | None = None

    def of(self, whole: Tensor) -> Tensor:
        """Crops (N, ..., h, w) to (N, ..., s, s), each row by its own box; no-op without boxes."""
        if self.boxes is None:
            return whole
        return torch.stack([box.of(row) for box, row in zip(self.boxes, whole, strict=True)])

    def into(self, whole: Tensor, decoded: Tensor) -> Tensor:
        """Pastes ``decoded`` (N, C, s, s) into a copy of ``whole`` (N, C, h, w)."""
        if self.boxes is None:
            return decoded
        pasted = whole.clone()
        for box, row, values in zip(self.boxes, pasted, decoded, strict=True):
            box.of(row).copy_(values)
        return pasted


def decoded_shape(edit_mask: np.ndarray, settings: Decode) -> tuple[int, int]:
    """The shape that an edit is decoded in. Edits of equal shape are batched together."""
    height, width = edit_mask.shape
    if settings.region == "full":
        return height, width
    box = box_around(edit_mask, context=settings.context, multiple=settings.multiple)
    return box.height, box.width


def region_for(edit_masks: Sequence[np.ndarray], settings: Decode) -> Region:
    """The region for edits that all have the same ``decoded_shape``."""
    if decoded_shape(edit_masks[0], settings) == edit_masks[0].shape:
        return Region()
    return Region(
        tuple(
            box_around(mask, context=settings.context, multiple=settings.multiple)
            for mask in edit_masks
        )
    )


def _span(first: int, last: int, side: int, length: int) -> tuple[int, int]:
    """Start and size of ``side`` cells centered on first..last, within 0..length."""
    side = min(side, length)
    start = (first + last - side) // 2
    return min(max(start, 0), length - side), side
