"""DiffEdit's mask in float64 loops, from the paper's step 1."""

from __future__ import annotations

from itertools import pairwise

import numpy as np


def relative_difference(eps_source: np.ndarray, eps_target: np.ndarray) -> np.ndarray:
    """The mean absolute difference of (M, C, h, w), divided by the RMS of ``eps_source``."""
    num_draws, channels, height, width = eps_source.shape
    total = np.zeros((height, width))
    for m in range(num_draws):
        for c in range(channels):
            total += np.abs(eps_target[m, c] - eps_source[m, c])
    return total / (num_draws * channels) / np.sqrt(np.mean(eps_source**2))


def minmax(values: np.ndarray, percentile: float) -> np.ndarray:
    """Removes extreme values and rescales to [0, 1]."""
    top = np.percentile(values, percentile)
    clamped = np.minimum(values, top)
    return (clamped - values.min()) / (top - values.min())


def mean_ratio(values: np.ndarray) -> np.ndarray:
    """diffusers' rule: clamp at three times the map's mean, then divide by it."""
    top = 3.0 * values.mean()
    return np.minimum(values, top) / top


def otsu(values: np.ndarray) -> float:
    """The threshold between any two values that minimizes the variance within both classes."""
    ordered = np.unique(values)
    best, threshold = np.inf, 0.0
    for low, high in pairwise(ordered):
        below, above = values[values <= low], values[values >= high]
        inside = len(below) * below.var() + len(above) * above.var()
        if inside < best:
            best, threshold = inside, (low + high) / 2.0
    return threshold
