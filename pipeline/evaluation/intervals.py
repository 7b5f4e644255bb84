"""How sure it is that one curve lies above another: a bootstrap over the edits.

The methods edited the same tasks, so each resample draws tasks, with replacement, for all points of
both curves together; then both curves are drawn anew and compared.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.evaluation.curves import Curve, Point, along, axes_of, curve_of, margins, sign_of

RESAMPLES = 2000
SEED = 0
LEVEL = 0.95

# B resamples, P points of a curve, E edits.
Floats = NDArray[np.float64]


def bootstrap(
    points: Sequence[Point], better: str, other: str, at: Sequence[float]
) -> dict[str, Any] | None:
    """Intervals for what ``compare`` says of two methods.

    Args:
        points: of all methods, with the figures of their edits.
        better: as given to ``compare``.
        other: likewise.
        at: the distances that it compared at.

    Returns:
        JSON-able: at each distance the percentile interval of the difference and the share of the
        resamples in which both curves reach it; the interval of the mean difference over the
        overlap; the shares of resamples that overlap, and that lie above everywhere where they do.
        None where a figure is no mean over edits (CSFID), or no two edits are there.
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
    there, means, above = [], [], 0
    for pair in zip(first, second, strict=True):
        there.append([_difference(*pair, x, sign) for x in at])
        found = margins(*pair, sign=sign)
        if found is not None:
            means.append(found.mean)
            above += bool((found.difference > 0).all())
    columns = list(zip(*there, strict=True))
    return {
        "edits": len(keys),
        "resamples": RESAMPLES,
        "level": LEVEL,
        "intervals": [_interval([v for v in column if v is not None]) for column in columns],
        "reached": [round(sum(v is not None for v in c) / RESAMPLES, 4) for c in columns],
        "mean_interval": _interval(means),
        "overlapping": round(len(means) / RESAMPLES, 4),
        "above_everywhere": round(above / len(means), 4) if means else None,
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
    """The curve of a method in each resample; an edit without a figure does not count in its mean.

    A point that no drawn edit has a figure of is left out.
    """
    xs_BP, ys_BP = (
        np.stack([_means(point, keys, axis, weights_BE) for point in points], 1) for axis in axes
    )
    return [
        curve_of([(x, y) for x, y in zip(xs, ys, strict=True) if np.isfinite(x + y)], axes[1])
        for xs, ys in zip(xs_BP.tolist(), ys_BP.tolist(), strict=True)
    ]


def _means(point: Point, keys: Sequence[str], axis: str, weights_BE: Floats) -> Floats:
    """(B,) the mean of a figure in each resample; NaN where nothing that was drawn has it."""
    values_E = np.array([point.edits.get(key, {}).get(axis, np.nan) for key in keys])
    known_E = np.isfinite(values_E)
    count_B = weights_BE @ known_E
    total_B = weights_BE @ np.where(known_E, values_E, 0.0)
    return np.divide(total_B, count_B, out=np.full_like(total_B, np.nan), where=count_B > 0)


def _difference(first: Curve, second: Curve, x: float, sign: float) -> float | None:
    """The first curve minus the second one at a distance that both reach."""
    if any(not curve or not curve[0][0] <= x <= curve[-1][0] for curve in (first, second)):
        return None
    return sign * float(along(first, [x])[0] - along(second, [x])[0])


def _interval(values: Sequence[float]) -> list[float] | None:
    if not values:
        return None
    tail = 50 * (1 - LEVEL)
    return [round(float(v), 4) for v in np.percentile(values, [tail, 100 - tail])]
