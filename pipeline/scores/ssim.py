"""SSIM outside a mask, tile by tile: of the background's pixels alone, and in PIE-Bench's form.

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

# Windows of a tile. Its sums stay in a core's cache, where the whole image's would not; and its
# products of matrices, of 24 * 34 * 266 terms, are too small for OpenBLAS to share out among
# threads, which would fight with torch's for the cores (it does so from 2^18 terms on).
TILE = (24, 256)

Floats = NDArray[np.float64]


def ssims_outside(
    before: NDArray[np.uint8], after: NDArray[np.uint8], outside: NDArray[np.bool_]
) -> tuple[float | None, float | None]:
    """SSIM of the true background, and of both images with the masked region blacked out.

    The means over channels and over the windows that lie in the image: of the first form those
    whose centre is outside the mask, of the second one all.

    Args:
        before: (H, W, C) uint8.
        after: same shape.
        outside: (H, W) bool, True = compared.

    Returns:
        Both in [-1, 1]. None, None: the image is smaller than a window; the first one None: no
        window's centre is outside the mask.
    """
    height, width, channels = before.shape
    if min(height, width) <= 2 * RADIUS:
        return None, None
    background = frame = 0.0
    num_centres = 0
    for top in range(0, height - 2 * RADIUS, TILE[0]):
        for left in range(0, width - 2 * RADIUS, TILE[1]):
            bottom, right = top + TILE[0] + 2 * RADIUS, left + TILE[1] + 2 * RADIUS
            tile = np.s_[top:bottom, left:right]
            sums = _tile(before[tile], after[tile], outside[tile])
            background, frame = background + sums[0], frame + sums[1]
            num_centres += int(_centres(outside[tile]).sum())
    num_windows = (height - 2 * RADIUS) * (width - 2 * RADIUS)
    return (
        background / (num_centres * channels) if num_centres else None,
        frame / (num_windows * channels),
    )


def _tile(
    before: NDArray[np.uint8], after: NDArray[np.uint8], outside: NDArray[np.bool_]
) -> tuple[float, float]:
    """Both forms, summed over channels and the windows of a tile.

    One set of window sums serves both: for a binary mask m the window sums of the blacked-out
    images are G * (m x), G * (m x^2), ..., and the moments over a window's background pixels
    alone are those, divided by G * m. So no window of the first form sees an edited pixel, and
    where a tile has none both forms are the ordinary SSIM.
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
    centres = _centres(outside)
    if not centres.any():
        return 0.0, frame
    weight = np.where(centres, _windows(kept), 1.0)  # at least the centre's own, so above 0
    return float(_ssim_map(sums / weight).sum(where=centres)), frame


def _ssim_map(means: Floats) -> Floats:
    """(C, h, w) SSIM of each window, of the means of x, y, x^2 + y^2 and xy in it, in [0, 1]."""
    x, y, squares, products = means
    c1, c2 = K1**2, K2**2
    product, square = x * y, x**2 + y**2
    return ((2 * product + c1) * (2 * (products - product) + c2)) / (
        (square + c1) * (squares - square + c2)
    )


def _windows(values: Floats) -> Floats:
    """(..., h + 10, w + 10) to (..., h, w): the Gaussian-weighted sum over each window."""
    rows = _band(values.shape[-2] - 2 * RADIUS) @ values
    # All rows as one: sums that reach from one into the next are cut off.
    sums = np.correlate(rows.ravel(), TAPS, mode="same").reshape(rows.shape)
    return sums[..., RADIUS:-RADIUS]


@cache
def _band(length: int) -> Floats:
    """(length, length + 10): the taps along the diagonal, a matrix that sums vertically."""
    return np.stack([np.pad(TAPS, (row, length - 1 - row)) for row in range(length)])


def _centres(outside: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """(h, w): whether the centre of each window is outside the mask."""
    return outside[RADIUS:-RADIUS, RADIUS:-RADIUS]
