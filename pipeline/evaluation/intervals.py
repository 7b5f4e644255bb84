"""Confidence intervals for the difference of two curves: a bootstrap over the edits.

All methods edited the same tasks. So each resample draws tasks, with replacement, for all points
of both curves together, then computes both curves and compares them. The overlap of the curves
differs between resamples. Therefore curves are compared at fractions of the overlap (its ends, a
third of it, and so on): a fixed distance would be outside the overlap in many resamples.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.evaluation.curves import Curve, Point, axes_of, curve_of, margins, sign_of

RESAMPLES = 2000
SEED = 0
LEVEL = 0.95

# B resamples, P points of a curve, E edits.
Floats = NDArray[np.float64]


def bootstrap(
    points: Sequence[Point], better: str, other: str, at: Sequence[float]
) -> dict[str, Any] | None:
    """Confidence intervals for the result of ``compare``.

    Args:
        points: of all methods, with the figures of their edits.
        better: as passed to ``compare``.
        other: as passed to ``compare``.
        at: the distances that were compared, including the ends of the overlap.

    Returns:
        JSON-able: for each distance the percentile interval of the difference; the interval of
        the mean difference over the overlap; the share of resamples in which the curves overlap;
        and the share of those in which ``better`` is above everywhere.
        None if a figure is not a mean over edits (CSFID), or there are fewer than two edits.
    """
    axes = axes_of(points)
    chosen = [point for point in points if point.method in (better, other)]
    keys = sorted({key for point in chosen for key in point.edits})
    if axes is None or len(keys) < 2 or not all(_has(point, axes) for point in chosen):
        return None
    weights_BE = _draws(len(keys))
    first, second = (
        _resampled([p for p in chosen if p.method == name], keys, axes, weights_BE)
        for name in (better, other)
    )
    sign = sign_of(axes[1])
    overlaps = [margins(*pair, sign=sign) for pair in zip(first, second, strict=True)]
    found = [overlap for overlap in overlaps if overlap is not None]
    length = at[-1] - at[0]
    fractions = [(x - at[0]) / length if length else 0.0 for x in at]
    differences = np.array([overlap.at_fractions(fractions) for overlap in found])
    differences = differences.reshape(-1, len(at))
    above = [bool((overlap.difference > 0).all()) for overlap in found]
    return {
        "edits": len(keys),
        "resamples": RESAMPLES,
        "level": LEVEL,
        "intervals": [_interval(column) for column in differences.T.tolist()],
        "mean_interval": _interval([overlap.mean for overlap in found]),
        "overlapping": round(len(found) / RESAMPLES, 4),
        "above_everywhere": round(float(np.mean(above)), 4) if above else None,
    }


def _has(point: Point, axes: tuple[str, str]) -> bool:
    return any(axes[0] in figures and axes[1] in figures for figures in point.edits.values())


def _draws(num_edits: int) -> Floats:
    """(B, E): how often each edit is drawn in each resample."""
    generator = np.random.default_rng(SEED)
    return generator.multinomial(num_edits, [1 / num_edits] * num_edits, RESAMPLES).astype(float)


def _resampled(
    points: Sequence[Point], keys: Sequence[str], axes: tuple[str, str], weights_BE: Floats
) -> list[Curve]:
    """The curve of a method in each resample.

    Means are over the edits that have the figure. A point without any such edit is left out.
    """
    xs_BP, ys_BP = (
        np.stack([_means(point, keys, axis, weights_BE) for point in points], 1) for axis in axes
    )
    return [
        curve_of([(x, y) for x, y in zip(xs, ys, strict=True) if np.isfinite(x + y)], axes[1])
        for xs, ys in zip(xs_BP.tolist(), ys_BP.tolist(), strict=True)
    ]


def _means(point: Point, keys: Sequence[str], axis: str, weights_BE: Floats) -> Floats:
    """(B,) the mean of a figure in each resample; NaN if no drawn edit has it."""
    values_E = np.array([point.edits.get(key, {}).get(axis, np.nan) for key in keys])
    known_E = np.isfinite(values_E)
    count_B = weights_BE @ known_E
    total_B = weights_BE @ np.where(known_E, values_E, 0.0)
    mean_B: Floats = np.full_like(total_B, np.nan)
    np.divide(total_B, count_B, out=mean_B, where=count_B > 0)
    return mean_B


def _interval(values: Sequence[float]) -> list[float] | None:
    if not values:
        return None
    tail = 50 * (1 - LEVEL)
    return [round(float(v), 4) for v in np.percentile(values, [tail, 100 - tail])]
