"""DiffEdit's mask in float64 loops, from the paper's step 1."""

from __future__ import annotations

from itertools import pairwise

import numpy as np


def relative_difference(eps_source: np.ndarray, eps_target: np.ndarray) -> np.ndarray:
    """(M, C, h, w) each: mean absolute difference, in root mean squares of the source's eps."""
    num_draws, channels, height, width = eps_source.shape
    total = np.zeros((height, width))
    for m in range(num_draws):
        for c in range(channels):
            total += np.abs(eps_target[m, c] - eps_source[m, c])
    return total / (num_draws * channels) / np.sqrt(np.mean(eps_source**2))


def minmax(values: np.ndarray, percentile: float) -> np.ndarray:
    """Remove extreme values, rescale to [0, 1]."""
    top = np.percentile(values, percentile)
    clamped = np.minimum(values, top)
    return (clamped - values.min()) / (top - values.min())


def mean_ratio(values: np.ndarray) -> np.ndarray:
    """diffusers' rule: clamp at three means of this map, divide by them."""
    top = 3.0 * values.mean()
    return np.minimum(values, top) / top


def otsu(values: np.ndarray) -> float:
    """The cut between any two values that minimises the variance inside both classes together."""
    ordered = np.unique(values)
    best, cut = np.inf, 0.0
    for low, high in pairwise(ordered):
        below, above = values[values <= low], values[values >= high]
        inside = len(below) * below.var() + len(above) * above.var()
        if inside < best:
            best, cut = inside, (low + high) / 2.0
    return cut
