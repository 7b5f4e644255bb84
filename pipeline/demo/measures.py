"""Metrics that compare an edit with its ground truth: masks on the latent grid, and pixels."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def mask_iou(mask: NDArray[np.bool_], truth: NDArray[np.bool_]) -> float:
    """Intersection over union of two masks; 1 if both are empty."""
    union = (mask | truth).sum()
    return float((mask & truth).sum() / union) if union else 1.0


def mask_recall(mask: NDArray[np.bool_], truth: NDArray[np.bool_]) -> float:
    """The share of the truly changed cells that the mask covers; 1 if nothing changed."""
    return float((mask & truth).sum() / truth.sum()) if truth.any() else 1.0


def mask_precision(mask: NDArray[np.bool_], truth: NDArray[np.bool_]) -> float:
    """The share of the mask's cells that truly change; 0 if the mask is empty."""
    return float((mask & truth).sum() / mask.sum()) if mask.any() else 0.0


def psnr(
    image: NDArray[np.uint8], other: NDArray[np.uint8], where: NDArray[np.bool_] | None = None
) -> float:
    """Peak signal-to-noise ratio in dB, over all pixels or those of a mask.

    Args:
        image: (h, w, 3) uint8.
        other: same shape.
        where: (h, w) bool; only these pixels count.

    Returns:
        Infinity for equal pixels; NaN if `where` selects no pixel.
    """
    square = (image.astype(np.float64) - other.astype(np.float64)) ** 2
    chosen = square if where is None else square[where]
    if chosen.size == 0:
        return float("nan")
    mean = chosen.mean()
    return float(10 * np.log10(255**2 / mean)) if mean else float("inf")
