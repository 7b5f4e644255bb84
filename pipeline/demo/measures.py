"""Figures that compare an edit with its known truth: masks on the latent grid, pixels outside."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def mask_iou(mask: NDArray[np.bool_], truth: NDArray[np.bool_]) -> float:
    """Intersection over union of two masks; 1 where both are empty."""
    union = (mask | truth).sum()
    return float((mask & truth).sum() / union) if union else 1.0


def mask_recall(mask: NDArray[np.bool_], truth: NDArray[np.bool_]) -> float:
    """The share of the truly changed cells that the mask holds; 1 where nothing changed."""
    return float((mask & truth).sum() / truth.sum()) if truth.any() else 1.0


def mask_precision(mask: NDArray[np.bool_], truth: NDArray[np.bool_]) -> float:
    """The share of the mask that truly changes; 0 where the mask is empty."""
    return float((mask & truth).sum() / mask.sum()) if mask.any() else 0.0


def psnr(
    image: NDArray[np.uint8], other: NDArray[np.uint8], where: NDArray[np.bool_] | None = None
) -> float:
    """Peak signal-to-noise ratio in dB, over the pixels of a mask or all.

    Args:
        image: (h, w, 3) uint8.
        other: same shape.
        where: (h, w) bool; only these pixels count.

    Returns:
        Infinity for equal pixels, not a number where `where` is empty.
    """
    square = (image.astype(np.float64) - other.astype(np.float64)) ** 2
    chosen = square if where is None else square[where]
    if chosen.size == 0:
        return float("nan")
    mean = chosen.mean()
    return float(10 * np.log10(255**2 / mean)) if mean else float("inf")
