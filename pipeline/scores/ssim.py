"""SSIM outside a mask, computed tile by tile: for background pixels only, and in PIE-Bench's form.

Source: Wang et al., "Image quality assessment: from error visibility to structural similarity",
2004: a Gaussian window of 11 x 11 with sigma 1.5, K1 = 0.01, K2 = 0.03.
"""

# H W pixels, C color channels, h w windows of a tile: it has (h + 10) x (w + 10) pixels.
from __future__ import annotations

from functools import cache

import numpy as np
from numpy.typing import NDArray

RADIUS = 5
SIGMA = 1.5
K1, K2 = 0.01, 0.03
TAPS = np.exp(-0.5 * (np.arange(-RADIUS, RADIUS + 1) / SIGMA) ** 2)
TAPS /= TAPS.sum()

# Windows per tile. The sums of a tile fit into a core's cache; those of a whole image do not. The
# matrix products of a tile have 24 * 34 * 266 terms, which is too few for OpenBLAS to use several
# threads (it does from 2^18 terms on); these would compete with torch's for the cores.
TILE = (24, 256)

Floats = NDArray[np.float64]


def ssims_outside(
    before: NDArray[np.uint8], after: NDArray[np.uint8], outside: NDArray[np.bool_]
) -> tuple[float | None, float | None]:
    """SSIM of the true background, and of both images with the masked region blacked out.

    Both are means over channels and over windows inside the image: the first over windows whose
    center is outside the mask, the second over all windows.

    Args:
        before: (H, W, C) uint8.
        after: same shape.
        outside: (H, W) bool, True = compared.

    Returns:
        Both in [-1, 1]. Both are None if the image is smaller than a window; the first is None if
        no window's center is outside the mask.
    """
    height, width, channels = before.shape
    if min(height, width) <= 2 * RADIUS:
        return None, None
    background = frame = 0.0
    num_centers = 0
    for top in range(0, height - 2 * RADIUS, TILE[0]):
        for left in range(0, width - 2 * RADIUS, TILE[1]):
            bottom, right = top + TILE[0] + 2 * RADIUS, left + TILE[1] + 2 * RADIUS
            tile = np.s_[top:bottom, left:right]
            sums = _tile(before[tile], after[tile], outside[tile])
            background, frame = background + sums[0], frame + sums[1]
            num_centers += int(_centers(outside[tile]).sum())
    num_windows = (height - 2 * RADIUS) * (width - 2 * RADIUS)
    return (
        background / (num_centers * channels) if num_centers else None,
        frame / (num_windows * channels),
    )


def _tile(
    before: NDArray[np.uint8], after: NDArray[np.uint8], outside: NDArray[np.bool_]
) -> tuple[float, float]:
    """Both forms, summed over channels and the windows of a tile.

    Both use the same window sums. For a binary mask m the window sums of the blacked-out images
    are G * (m x), G * (m x^2), ...; divided by G * m they are the moments over a window's
    background pixels. So no window of the first form includes an edited pixel, and in a tile
    without edited pixels both forms are the ordinary SSIM.
    """
    kept = outside.astype(np.float64)
    moments = np.empty((4, before.shape[2], *outside.shape))
    x, y, squares, products = moments
    np.multiply(np.moveaxis(before, 2, 0), kept / 255, out=x)
    np.multiply(np.moveaxis(after, 2, 0), kept / 255, out=y)
    np.multiply(x, x, out=squares)
    squares += y * y
    np.multiply(x, y, out=products)
    sums = _windows(moments)
    frame = float(_ssim_map(sums).sum())
    if outside.all():
        return frame, frame
    centers = _centers(outside)
    if not centers.any():
        return 0.0, frame
    weight = np.where(centers, _windows(kept), 1.0)  # above 0, since the center itself counts
    return float(_ssim_map(sums / weight).sum(where=centers)), frame


def _ssim_map(means: Floats) -> Floats:
    """(C, h, w) SSIM of each window, from its means of x, y, x^2 + y^2 and xy, in [0, 1]."""
    x, y, squares, products = means
    c1, c2 = K1**2, K2**2
    product, square = x * y, x**2 + y**2
    ssim: Floats = ((2 * product + c1) * (2 * (products - product) + c2)) / (
        (square + c1) * (squares - square + c2)
    )
    return ssim


def _windows(values: Floats) -> Floats:
    """(..., h + 10, w + 10) to (..., h, w): the Gaussian-weighted sum over each window."""
    rows = _band(values.shape[-2] - 2 * RADIUS) @ values
    # All rows are correlated as one; sums that reach from one row into the next are dropped.
    sums = np.correlate(rows.ravel(), TAPS, mode="same").reshape(rows.shape)
    return sums[..., RADIUS:-RADIUS]


@cache
def _band(length: int) -> Floats:
    """(length, length + 10): a band matrix of the taps, which sums vertically."""
    return np.stack([np.pad(TAPS, (row, length - 1 - row)) for row in range(length)])


def _centers(outside: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """(h, w): whether the center of each window is outside the mask."""
    return outside[RADIUS:-RADIUS, RADIUS:-RADIUS]
