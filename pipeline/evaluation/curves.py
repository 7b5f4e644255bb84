"""Trade-off curves: the methods to compare, and the comparison of two curves."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

# Overrides of the base configuration, by method name. The pixel composite is off for all, so that
# the methods themselves are compared.
METHODS: dict[str, tuple[str, ...]] = {
    "DiffEdit": ("method.name=diffedit",),
    "without mask": ("method.name=diffedit", "method.mask.source=full"),
    "without encoding": ("method.name=diffedit", "method.encode=noise"),
    "SDEdit": ("method.name=sdedit", "method.encode=noise", "method.mask.source=full"),
    "Imagic": ("method.name=imagic", "method.mask.source=full"),
}
# The setting that is varied as the ratio. Imagic's goes from the fitted to the text's embedding.
RATIO_OF = {"SDEdit": "strength", "Imagic": "imagic.interp_eta"}
# Imagic is not among the default methods because it fits a network for each edit.
DEFAULT_METHODS = ("DiffEdit", "without mask", "without encoding", "SDEdit")
COMMON_OVERRIDES = ("method.composite.enabled=false",)
RATIOS = (0.3, 0.45, 0.6, 0.8, 1.0)
# Candidates for the axes (distance, agreement): the first pair that every point has is used.
AXES = (
    ("psnr_db", "confirmed_e2"),
    ("lpips_e3", "clip_whole"),
    ("lpips_e2", "csfid"),
    ("psnr_db", "clip_whole"),
    ("psnr_db", "mask_iou"),
)
HIGHER_IS_NEARER = {"psnr_db"}  # distances where a higher value means a smaller distance
LOWER_IS_BETTER = {"csfid"}  # agreements where a lower value is better


@dataclass(frozen=True)
class Point:
    """The figures of one method at one ratio on a benchmark."""

    method: str
    ratio: float
    figures: dict[str, float]  # means over the edits, or figures of all edits together
    # figures of each edit, by key
    edits: Mapping[str, Mapping[str, float]] = field(default_factory=dict, repr=False)


Curve = list[tuple[float, float]]  # (distance, agreement), sorted by distance


@dataclass(frozen=True)
class Margins:
    """How far one curve lies above another, over the range of distances that both cover."""

    low: float  # the range
    high: float
    at: list[float]  # the distances of both curves' points in the range, ends included
    difference: NDArray[np.float64]  # at these distances; positive: above

    @property
    def mean(self) -> float:
        """The mean difference over the range; curves are linear between their points."""
        if self.high == self.low:
            return float(self.difference.mean())
        return float(np.trapezoid(self.difference, self.at) / (self.high - self.low))

    def at_fractions(self, fractions: Sequence[float]) -> NDArray[np.float64]:
        """The difference at fractions of the range: 0 is its low end, 1 its high end."""
        xs = self.low + np.asarray(fractions) * (self.high - self.low)
        return np.interp(xs, self.at, self.difference)


def overrides_for(method: str, ratio: float) -> list[str]:
    """The overrides of the base configuration for a point.

    Raises:
        ValueError: the method is unknown.
    """
    if method not in METHODS:
        raise ValueError(f"no method {method!r}; allowed are {', '.join(METHODS)}")
    ratio_key = RATIO_OF.get(method, "encode_ratio")
    # the base configuration may have Imagic's section, which other methods do not accept
    no_imagic = () if method == "Imagic" else ("method.imagic=null",)
    return [*METHODS[method], *no_imagic, *COMMON_OVERRIDES, f"method.{ratio_key}={ratio}"]


def axes_of(points: Sequence[Point]) -> tuple[str, str] | None:
    """The pair of figures to use as distance and agreement, which all points have; or None."""
    for distance, agreement in AXES:
        if points and all({distance, agreement} <= point.figures.keys() for point in points):
            return distance, agreement
    return None


def compare(points: Sequence[Point], better: str, other: str) -> dict[str, Any] | None:
    """Compares the curves of two methods over the distances that both cover.

    Both curves are piecewise linear through their points. They are compared at each point of
    either curve inside the overlap.

    Returns:
        JSON-able: the overlap in distance, the difference in agreement (positive if ``better`` is
        better) at each distance compared, and whether it is positive at all of them. None if the
        curves do not overlap or have no common figures.
    """
    axes = axes_of(points)
    if axes is None:
        return None
    pairs = [
        [(p.figures[axes[0]], p.figures[axes[1]]) for p in points if p.method == name]
        for name in (better, other)
    ]
    found = margins(*(curve_of(pair, axes[1]) for pair in pairs), sign=sign_of(axes[1]))
    if found is None:
        return None
    return {
        "better": better,
        "other": other,
        "distance": axes[0],
        "agreement": axes[1],
        "overlap": [found.low, found.high],
        "compared_at": [round(x, 4) for x in found.at],
        "difference": [round(float(value), 4) for value in found.difference],
        "mean_difference": round(found.mean, 4),
        "above_everywhere": bool((found.difference > 0).all()),
    }


def sign_of(agreement: str) -> float:
    """-1 if a lower value of the figure is better, else 1."""
    return -1.0 if agreement in LOWER_IS_BETTER else 1.0


def curve_of(pairs: Iterable[tuple[float, float]], agreement: str) -> Curve:
    """The curve through (distance, agreement) pairs; of equal distances the better one is kept."""
    best: dict[float, float] = {}
    pick = min if agreement in LOWER_IS_BETTER else max
    for x, y in pairs:
        best[x] = pick(best[x], y) if x in best else y
    return sorted(best.items())


def margins(first: Curve, second: Curve, *, sign: float = 1.0) -> Margins | None:
    """The first curve minus the second, times ``sign``; None if they do not overlap."""
    curves = first, second
    if any(len(curve) < 2 for curve in curves):
        return None
    low = max(curve[0][0] for curve in curves)
    high = min(curve[-1][0] for curve in curves)
    if low > high:
        return None
    at = sorted({x for curve in curves for x, _ in curve if low <= x <= high})
    return Margins(low, high, at, sign * (agreement_at(first, at) - agreement_at(second, at)))


def agreement_at(curve: Curve, at: Sequence[float]) -> NDArray[np.float64]:
    """A curve's agreement at distances inside its range, interpolated linearly."""
    return np.interp(at, [x for x, _ in curve], [y for _, y in curve])
