"""PSNR, SSIM and CSFID from their definitions, pixel by pixel, in float64."""

from __future__ import annotations

import math

import numpy as np


def gaussian_window() -> np.ndarray:
    """11 x 11, sigma 1.5, sum 1 (Wang et al., 2004)."""
    window = np.zeros((11, 11))
    for row in range(11):
        for column in range(11):
            window[row, column] = math.exp(-((row - 5) ** 2 + (column - 5) ** 2) / (2 * 1.5**2))
    return window / window.sum()


def window_ssim(x: np.ndarray, y: np.ndarray, weights: np.ndarray) -> float:
    """SSIM of one window, for values in [0, 1] and weights that sum to 1."""
    c1, c2 = 0.01**2, 0.03**2
    mean_x, mean_y = (weights * x).sum(), (weights * y).sum()
    var_x = (weights * (x - mean_x) ** 2).sum()
    var_y = (weights * (y - mean_y) ** 2).sum()
    cov = (weights * (x - mean_x) * (y - mean_y)).sum()
    luminance = (2 * mean_x * mean_y + c1) / (mean_x**2 + mean_y**2 + c1)
    return float(luminance * (2 * cov + c2) / (var_x + var_y + c2))


def ssim(before: np.ndarray, after: np.ndarray, outside: np.ndarray | None = None) -> float:
    """The mean SSIM over windows and channels.

    With ``outside``, (H, W) bool, only windows centered on its pixels count, and only its pixels
    inside each window.
    """
    x, y = before.astype(np.float64) / 255, after.astype(np.float64) / 255
    keep = np.ones(x.shape[:2], bool) if outside is None else outside
    window, values = gaussian_window(), []
    for row in range(5, x.shape[0] - 5):
        for column in range(5, x.shape[1] - 5):
            if not keep[row, column]:
                continue
            area = np.s_[row - 5 : row + 6, column - 5 : column + 6]
            weights = window * keep[area]
            weights = weights / weights.sum()
            values += [
                window_ssim(x[area][..., channel], y[area][..., channel], weights)
                for channel in range(x.shape[2])
            ]
    return float(np.mean(values))


def mse(before: np.ndarray, after: np.ndarray, outside: np.ndarray | None = None) -> float:
    """The mean squared difference of values in [0, 1], over the pixels of ``outside`` or all."""
    total, count = 0.0, 0
    for row in range(before.shape[0]):
        for column in range(before.shape[1]):
            if outside is not None and not outside[row, column]:
                continue
            for channel in range(before.shape[2]):
                difference = int(before[row, column, channel]) - int(after[row, column, channel])
                total, count = total + (difference / 255) ** 2, count + 1
    return total / count


def psnr_db(error: float) -> float:
    """10 log10(1 / MSE)."""
    return 10 * math.log10(1 / error)


def csfid(edited: dict[str, np.ndarray], real: dict[str, np.ndarray]) -> float:
    """|mean of edits - mean of real images|^2, averaged over the classes."""
    total = 0.0
    for name, features in edited.items():
        for dimension in range(features.shape[1]):
            mean = sum(float(row[dimension]) for row in features) / len(features)
            truth = sum(float(row[dimension]) for row in real[name]) / len(real[name])
            total += (mean - truth) ** 2
    return total / len(edited)
