"""The pixel composite: puts the edited region into the input image and measures the change."""

# H W pixels of an image, h w cells of the latent grid.
from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from PIL import Image

from pipeline.config.buckets import Size
from pipeline.images.geometry import Box, Placement
from pipeline.records.part import Edit, Sample

CUT_NOTE = "the mask meets the border of the crop that the model saw, so the edit may be cut there"


@dataclass(frozen=True)
class Composite:
    """An edit's image, ready to be written, with its mask."""

    pixels: np.ndarray  # (H, W, 3) uint8
    mask: np.ndarray  # (H, W) uint8, 255 = edit, at the size of ``pixels``
    edit_rms: float | None  # RMS change inside the mask, in [0, 1]; None if the mask is empty

    @property
    def area(self) -> float:
        """The share of the pixels inside the mask."""
        return float((self.mask > 0).mean())

    @property
    def box(self) -> list[int] | None:
        """The mask's bounding box x0, y0, x1, y1 (x1, y1 exclusive); None for an empty mask."""
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
        feather: width of the ramp inside the mask, in pixels; None returns ``edited`` unblended.

    Returns:
        The composite. Its pixels outside the mask are exactly those of ``before``, unless
        ``feather`` is None.
    """
    pixels = edited if feather is None else blend(before, edited, inward_ramp(mask, feather))
    inside = mask > 0
    return Composite(
        pixels=pixels,
        mask=np.round(mask * 255).astype(np.uint8),
        edit_rms=rms(before[inside], pixels[inside]) if inside.any() else None,
    )


def into_source(
    source: np.ndarray, model_sized: Composite, placement: Placement, *, feather: float | None
) -> Composite:
    """Scales a composite back into the original image, which keeps its size and other pixels.

    Args:
        source: (H, W, 3) uint8, the original at its own size.
        model_sized: the composite at the model's size.
        placement: of the original in the model's image.
        feather: as for ``composite``; None replaces the whole region that the model's image shows.
    """
    (left, top, right, bottom), region = placement.shown, placement.target
    scaled_to = (right - left, bottom - top)
    mask = np.zeros(source.shape[:2], np.uint8)
    mask[top:bottom, left:right] = _scaled_mask(model_sized.mask, region, scaled_to)
    if feather is None:
        alpha = np.ones(scaled_to[::-1], np.float32)
    else:
        ramp = inward_ramp(model_sized.mask.astype(np.float32) / 255, feather)
        alpha = _scaled(ramp, region, scaled_to, Image.Resampling.BILINEAR)
        alpha = np.where(mask[top:bottom, left:right] > 0, alpha, 0).clip(0, 1)
    edited = _scaled(model_sized.pixels, region, scaled_to, Image.Resampling.LANCZOS)
    pixels = source.copy()
    pixels[top:bottom, left:right] = blend(source[top:bottom, left:right], edited, alpha)
    inside = mask > 0
    edit_rms = rms(source[inside], pixels[inside]) if inside.any() else None
    return Composite(pixels, mask, edit_rms)


def meets_cut(mask: np.ndarray, placement: Placement) -> bool:
    """Whether a mask reaches a side of the model's image on which the original goes on.

    Args:
        mask: (H, W) in [0, 1], 1 = edit, at the model's size. It counts from a half on: a
            supplied mask may be lossy.
        placement: of the original in the model's image.
    """
    sides = zip(placement.cut, (mask[:, 0], mask[0], mask[:, -1], mask[-1]), strict=True)
    return any(is_cut and bool((side >= 0.5).any()) for is_cut, side in sides)


def mask_of(sample: Sample, edit: Edit) -> np.ndarray:
    """The mask of an edit at the model image's pixels; all ones if the edit has no mask.

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
    """The mask at the image's pixels: the supplied mask, or the latent grid's mask, enlarged.

    A supplied mask is finer than the grid, and is applied exactly, pixel by pixel.

    Args:
        mask_hw: (h, w) float32 in [0, 1].
        supplied: (H, W) uint8, prepared, or None.
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
    """The mask, ramped from 0 at its border to its own value ``feather`` pixels inside.

    It is the mean of the mask eroded 0, 1, ... times by one pixel (3 x 3). So it is 0 exactly where
    the mask is 0, and the edge of the image does not count as a border.

    Args:
        mask: (H, W) float32 in [0, 1].
        feather: in pixels, rounded; 0 and 1 change nothing.

    Returns:
        (H, W) float32 in [0, 1].
    """
    steps = max(1, round(feather))
    eroded = total = mask.astype(np.float32)
    for _ in range(steps - 1):
        eroded = _eroded(eroded)
        total = total + eroded
    return np.asarray(total / np.float32(steps))


def blend(before: np.ndarray, edited: np.ndarray, alpha: np.ndarray) -> np.ndarray:
    """before + alpha * (edited - before), (H, W, 3) uint8; exactly ``before`` if alpha is 0."""
    start = before.astype(np.float32)
    mixed = start + alpha[..., None] * (edited.astype(np.float32) - start)
    return np.asarray(np.round(mixed).clip(0, 255).astype(np.uint8))


def rms(first: np.ndarray, second: np.ndarray) -> float:
    """Root mean square difference of two uint8 arrays, in [0, 1]."""
    difference = first.astype(np.float64) - second.astype(np.float64)
    return float(np.sqrt(np.mean(difference**2)) / 255)


def _eroded(mask: np.ndarray) -> np.ndarray:
    """The minimum over each pixel's 3 x 3 neighborhood inside the image."""
    for first, last in ((np.s_[:-1], np.s_[1:]), (np.s_[:, :-1], np.s_[:, 1:])):
        minimum = mask.copy()
        np.minimum(minimum[last], mask[first], out=minimum[last])
        np.minimum(minimum[first], mask[last], out=minimum[first])
        mask = minimum
    return mask


def _scaled_mask(mask: np.ndarray, region: Box, size: Size) -> np.ndarray:
    """A region of a mask, (H, W) uint8, resized to (width, height) without losing any part of it.

    When it shrinks, pixels that the mask covers partly are inside it. Nearest-neighbor sampling
    alone could skip a whole cell of the latent grid.
    """
    nearest = _scaled(mask, region, size, Image.Resampling.NEAREST)
    left, top, right, bottom = region
    if size[0] >= right - left and size[1] >= bottom - top:
        return nearest
    covered = _scaled((mask > 0).astype(np.float32), region, size, Image.Resampling.BOX) > 0
    return np.where(covered & (nearest == 0), mask.max(), nearest)


def _scaled(values: np.ndarray, region: Box, size: Size, resample: Image.Resampling) -> np.ndarray:
    """A region of an array, resized to (width, height)."""
    return np.asarray(Image.fromarray(values).crop(region).resize(size, resample))
