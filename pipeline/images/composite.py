"""The pixel composite: what of an edited image is kept, and how much of it changed."""

# H W pixels of an image, h w cells of the latent grid.
from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from PIL import Image

from pipeline.images.geometry import Box, fit
from pipeline.records.part import Edit, Sample


@dataclass(frozen=True)
class Composite:
    """An edit's image, ready to be written, with its mask."""

    pixels: np.ndarray  # (H, W, 3) uint8
    mask: np.ndarray  # (H, W) uint8, 255 = edit, at the size of ``pixels``
    edit_rms: float | None  # None: the mask is empty

    @property
    def area(self) -> float:
        """The share of the pixels inside the mask."""
        return float((self.mask > 0).mean())

    @property
    def box(self) -> list[int] | None:
        """x0, y0, x1, y1 around the mask, x1 and y1 outside of it; None for an empty mask."""
        rows, columns = (np.flatnonzero((self.mask > 0).any(axis)) for axis in (1, 0))
        if not len(rows):
            return None
        return [int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1]


def composite(
    before: np.ndarray, edited: np.ndarray, mask: np.ndarray, *, feather: float | None
) -> Composite:
    """Puts the edited region into the prepared image.

    Args:
        before: (H, W, 3) uint8, prepared.
        edited: (H, W, 3) uint8, as decoded from the latent.
        mask: (H, W) float32 in [0, 1], 1 = edit.
        feather: width of the ramp inside the mask, in pixels; None leaves ``edited`` as it is.

    Returns:
        Outside the mask, and so outside the feathered mask, its pixels are exactly those of
        ``before`` (unless ``feather`` is None).
    """
    pixels = edited if feather is None else blend(before, edited, inward_ramp(mask, feather))
    inside = mask > 0
    return Composite(
        pixels=pixels,
        mask=np.round(mask * 255).astype(np.uint8),
        edit_rms=rms(before[inside], pixels[inside]) if inside.any() else None,
    )


def into_source(
    source: np.ndarray, made: Composite, *, size: int, resize: str, feather: float | None
) -> Composite:
    """The composite scaled back into the original image, which keeps its size and other pixels.

    Args:
        source: (H, W, 3) uint8, the original at its own size.
        made: of the model's image.
        size: pixels a side of the model's image.
        resize: how that was made of the original.
        feather: as for ``composite``; None replaces all that the model's image shows.
    """
    height, width = source.shape[:2]
    (left, top, right, bottom), region = fit(width, height, size=size, resize=resize)
    scaled_to = (right - left, bottom - top)
    mask = np.zeros((height, width), np.uint8)
    mask[top:bottom, left:right] = _scaled_mask(made.mask, region, scaled_to)
    if feather is None:
        alpha = np.ones(scaled_to[::-1], np.float32)
    else:
        ramp = inward_ramp(made.mask.astype(np.float32) / 255, feather)
        alpha = _scaled(ramp, region, scaled_to, Image.Resampling.BILINEAR)
        alpha = np.where(mask[top:bottom, left:right] > 0, alpha, 0).clip(0, 1)
    edited = _scaled(made.pixels, region, scaled_to, Image.Resampling.LANCZOS)
    pixels = source.copy()
    pixels[top:bottom, left:right] = blend(source[top:bottom, left:right], edited, alpha)
    inside = mask > 0
    edit_rms = rms(source[inside], pixels[inside]) if inside.any() else None
    return Composite(pixels, mask, edit_rms)


def mask_of(sample: Sample, edit: Edit) -> np.ndarray:
    """The mask of an edit at the pixels of the model's image; everything where it has none.

    Returns:
        (H, W) float32 in [0, 1], 1 = edit.
    """
    assert sample.image is not None
    shape = sample.image.shape[:2]
    if edit.mask is None:
        return np.ones(shape, np.float32)
    return pixel_mask(edit.mask, sample.supplied_mask, shape)


def pixel_mask(
    mask_hw: np.ndarray, supplied: np.ndarray | None, shape: tuple[int, int]
) -> np.ndarray:
    """The mask at the image's pixels: that of the latent grid cell by cell, or a supplied one.

    A supplied mask is finer than the grid, so pixels that it keeps are kept to the pixel.

    Args:
        mask_hw: (h, w) float32 in [0, 1].
        supplied: (H, W) uint8 as prepared, or None.
        shape: (H, W).

    Returns:
        (H, W) float32 in [0, 1], 1 = edit.
    """
    if supplied is not None:
        return supplied.astype(np.float32) / 255
    rows = np.arange(shape[0]) * mask_hw.shape[0] // shape[0]
    columns = np.arange(shape[1]) * mask_hw.shape[1] // shape[1]
    return mask_hw[np.ix_(rows, columns)].astype(np.float32).clip(0, 1)


def inward_ramp(mask: np.ndarray, feather: float) -> np.ndarray:
    """The mask, rising from its border inwards to its own value over ``feather`` pixels.

    The mean of the mask eroded 0, 1, ... times by one pixel (3 x 3), so that it is 0 exactly where
    the mask is, and the image's frame is no border.

    Args:
        mask: (H, W) float32 in [0, 1].
        feather: pixels, rounded; 0 and 1 leave the mask as it is.

    Returns:
        (H, W) float32 in [0, 1].
    """
    steps = max(1, round(feather))
    eroded = total = mask.astype(np.float32)
    for _ in range(steps - 1):
        eroded = _eroded(eroded)
        total = total + eroded
    return total / np.float32(steps)


def blend(before: np.ndarray, edited: np.ndarray, alpha: np.ndarray) -> np.ndarray:
    """before + alpha * (edited - before), (H, W, 3) uint8; exactly ``before`` where alpha is 0."""
    start = before.astype(np.float32)
    mixed = start + alpha[..., None] * (edited.astype(np.float32) - start)
    return np.round(mixed).clip(0, 255).astype(np.uint8)


def rms(first: np.ndarray, second: np.ndarray) -> float:
    """Root mean square difference of two uint8 arrays, in [0, 1]."""
    difference = first.astype(np.float64) - second.astype(np.float64)
    return float(np.sqrt(np.mean(difference**2)) / 255)


def _eroded(mask: np.ndarray) -> np.ndarray:
    """The least value of each pixel's 3 x 3 neighbours inside the image."""
    for first, last in ((np.s_[:-1], np.s_[1:]), (np.s_[:, :-1], np.s_[:, 1:])):
        least = mask.copy()
        np.minimum(least[last], mask[first], out=least[last])
        np.minimum(least[first], mask[last], out=least[first])
        mask = least
    return mask


def _scaled_mask(mask: np.ndarray, region: Box, size: tuple[int, int]) -> np.ndarray:
    """A region of a mask, (H, W) uint8, resized to (width, height); no part of it is lost.

    Where it shrinks, a pixel that the mask covers in part is inside: between the pixels that the
    nearest neighbour takes, a whole cell of the latent grid can lie.
    """
    nearest = _scaled(mask, region, size, Image.Resampling.NEAREST)
    left, top, right, bottom = region
    if size[0] >= right - left and size[1] >= bottom - top:
        return nearest
    covered = _scaled((mask > 0).astype(np.float32), region, size, Image.Resampling.BOX) > 0
    return np.where(covered & (nearest == 0), mask.max(), nearest)


def _scaled(
    values: np.ndarray, region: Box, size: tuple[int, int], how: Image.Resampling
) -> np.ndarray:
    """A region of an array, resized to (width, height)."""
    return np.asarray(Image.fromarray(values).crop(region).resize(size, how))
