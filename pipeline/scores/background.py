"""How well an edit keeps what it should keep: MSE, PSNR and SSIM over the pixels outside its mask.

Two forms of each. The *true background* form is a mean over the background's pixels alone. The
*frame* form is that of PIE-Bench (PnPInversion, arXiv:2310.01506): both pictures are multiplied by
(1 - mask) and compared over the full frame, where the blacked-out region agrees by construction;
it looks better the larger the mask is, and is here to compare with published tables.
"""

# H W pixels, C color channels. A window is 11 x 11, so a map of windows is (H - 10, W - 10).
from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

PSNR_CAP_DB = 100.0  # of equal pictures, whose ratio is infinite

# Wang et al., "Image quality assessment: from error visibility to structural similarity", 2004:
# a Gaussian window of 11 x 11 with sigma 1.5, K1 = 0.01, K2 = 0.03.
RADIUS = 5
SIGMA = 1.5
K1, K2 = 0.01, 0.03

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class BackgroundScores:
    """Both forms of the three measures; a true background form is None where it has no pixels."""

    psnr_db: float | None
    ssim: float | None
    mse: float | None
    psnr_frame_db: float
    ssim_frame: float | None  # None: the picture is smaller than a window
    mse_frame: float


def background_scores(
    before: NDArray[np.uint8], after: NDArray[np.uint8], inside: NDArray[np.bool_]
) -> BackgroundScores:
    """Compares two pictures outside a mask.

    Args:
        before: (H, W, C) uint8.
        after: same shape.
        inside: (H, W) bool, True = edited, not compared.

    Returns:
        MSE of values in [0, 1], PSNR in decibels (at most ``PSNR_CAP_DB``), SSIM in [-1, 1].

    Raises:
        ValueError: the shapes differ.
    """
    if before.shape != after.shape or before.shape[:2] != inside.shape:
        raise ValueError(f"shapes {before.shape}, {after.shape} and {inside.shape} do not agree")
    outside = ~inside
    difference = before[outside].astype(np.float64) - after[outside].astype(np.float64)
    squares = float(np.square(difference).sum()) / 255**2
    mse = squares / difference.size if difference.size else None
    ssim, ssim_frame = _ssims(before, after, outside)
    mse_frame = squares / before.size
    return BackgroundScores(
        psnr_db=None if mse is None else psnr_db(mse),
        ssim=ssim,
        mse=mse,
        psnr_frame_db=psnr_db(mse_frame),
        ssim_frame=ssim_frame,
        mse_frame=mse_frame,
    )


def mse(before: NDArray[np.uint8], after: NDArray[np.uint8]) -> float:
    """Mean squared difference of two uint8 arrays, as values in [0, 1]."""
    difference = before.astype(np.float64) - after.astype(np.float64)
    return float(np.square(difference).mean()) / 255**2


def psnr_db(mse: float) -> float:
    """Peak signal-to-noise ratio in decibels, at most ``PSNR_CAP_DB``, of an MSE in [0, 1]."""
    return PSNR_CAP_DB if mse <= 0 else min(PSNR_CAP_DB, float(-10 * np.log10(mse)))


def ssim(before: NDArray[np.uint8], after: NDArray[np.uint8]) -> float | None:
    """Structural similarity of two whole pictures, (H, W, C) uint8; None below 11 x 11 pixels.

    The mean over all windows that lie in the picture, and over the channels (Wang et al., 2004).
    """
    return _ssims(before, after, np.ones(before.shape[:2], np.bool_))[1]


def _ssims(
    before: NDArray[np.uint8], after: NDArray[np.uint8], outside: NDArray[np.bool_]
) -> tuple[float | None, float | None]:
    """SSIM of the true background, and of both pictures with the masked region blacked out.

    One set of window sums serves both: for a binary mask m the window sums of the blacked-out
    pictures are G * (m x), G * (m x^2), ..., and the moments over a window's background pixels
    alone are those, divided by G * m. So no window of the first form sees an edited pixel, and with
    an empty mask both forms are the ordinary SSIM.
    """
    height, width = outside.shape
    if min(height, width) <= 2 * RADIUS:
        return None, None
    keep = outside.astype(np.float64)[..., None]
    x, y = before * (keep / 255), after * (keep / 255)
    sums = [_windows(values) for values in (x, y, x * x, y * y, x * y)]
    frame = float(_ssim_map(*sums).mean())
    centres = outside[RADIUS : height - RADIUS, RADIUS : width - RADIUS]
    if centres.all():
        return frame, frame
    if not centres.any():
        return None, frame
    weight = _windows(keep)[centres]  # at least the centre's own, so above 0
    moments = [values[centres] / weight for values in sums]
    return float(_ssim_map(*moments).mean()), frame


def _ssim_map(mean_x: Floats, mean_y: Floats, xx: Floats, yy: Floats, xy: Floats) -> Floats:
    """SSIM of each window, of the means of x, y, x^2, y^2 and xy in it; values in [0, 1]."""
    c1, c2 = K1**2, K2**2
    products, squares = mean_x * mean_y, mean_x**2 + mean_y**2
    return ((2 * products + c1) * (2 * (xy - products) + c2)) / (
        (squares + c1) * (xx + yy - squares + c2)
    )


def _windows(values: Floats) -> Floats:
    """The Gaussian-weighted sum over each window that lies in the picture."""
    taps = np.exp(-0.5 * (np.arange(-RADIUS, RADIUS + 1) / SIGMA) ** 2)
    taps /= taps.sum()
    for axis in (0, 1):
        length = values.shape[axis] - 2 * RADIUS

        def shifted(by: int, axis: int = axis, length: int = length, of: Floats = values) -> Floats:
            return of[by : by + length] if axis == 0 else of[:, by : by + length]

        total = taps[RADIUS] * shifted(RADIUS)
        for step in range(1, RADIUS + 1):  # the window is symmetric: two taps at once
            total += taps[RADIUS + step] * (shifted(RADIUS - step) + shifted(RADIUS + step))
        values = total
    return values
