"""How well an edit preserves the background: MSE, PSNR and SSIM over the pixels outside its mask.

Each has two forms. The *true background* form is a mean over the background's pixels only. The
*frame* form is PIE-Bench's (PnPInversion, arXiv:2310.01506): both images are multiplied by
(1 - mask) and compared over the full frame. The blacked-out region is equal by construction, so
larger masks give better values. This form exists to compare with published tables.
"""

# H W pixels, C color channels.
from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pipeline.scores.ssim import ssims_outside

PSNR_CAP_DB = 100.0  # used for equal images, whose PSNR is infinite


@dataclass(frozen=True)
class BackgroundScores:
    """Both forms of the three metrics; a true background form is None if there are no pixels."""

    psnr_db: float | None
    ssim: float | None
    mse: float | None
    psnr_frame_db: float
    ssim_frame: float | None  # None: the image is smaller than a window
    mse_frame: float


def background_scores(
    before: NDArray[np.uint8], after: NDArray[np.uint8], inside: NDArray[np.bool_]
) -> BackgroundScores:
    """Compares two images outside a mask.

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
    difference = np.subtract(before, after, dtype=np.int16).astype(np.int32)
    # in integers, whose sum is exact in any order
    squared = int(np.einsum("hwc,hw->", difference**2, outside, dtype=np.int64))
    squares = squared / 255**2
    size = int(outside.sum()) * before.shape[2]
    mse = squares / size if size else None
    ssim, ssim_frame = ssims_outside(before, after, outside)
    mse_frame = squares / before.size
    return BackgroundScores(
        psnr_db=None if mse is None else psnr_db(mse),
        ssim=ssim,
        mse=mse,
        psnr_frame_db=psnr_db(mse_frame),
        ssim_frame=ssim_frame,
        mse_frame=mse_frame,
    )


def psnr_db(mse: float) -> float:
    """Peak signal-to-noise ratio in decibels, at most ``PSNR_CAP_DB``, from an MSE in [0, 1]."""
    return PSNR_CAP_DB if mse <= 0 else min(PSNR_CAP_DB, float(-10 * np.log10(mse)))
