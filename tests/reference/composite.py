"""The pixel composite in float64, pixel by pixel."""

from __future__ import annotations

import numpy as np


def inward_ramp(mask: np.ndarray, steps: int) -> np.ndarray:
    """The mean over radii 0 to steps - 1 of the mask's minimum within that radius.

    Distances are Chebyshev distances; pixels beyond the image's edge are ignored.
    """
    height, width = mask.shape
    ramp = np.zeros((height, width))
    for y in range(height):
        for x in range(width):
            for radius in range(steps):
                rows = slice(max(0, y - radius), y + radius + 1)
                columns = slice(max(0, x - radius), x + radius + 1)
                ramp[y, x] += mask[rows, columns].min() / steps
    return ramp


def composite(before: np.ndarray, edited: np.ndarray, ramp: np.ndarray) -> np.ndarray:
    """(H, W, 3) pixel values, not rounded."""
    return (1.0 - ramp[..., None]) * before + ramp[..., None] * edited
