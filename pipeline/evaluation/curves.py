"""Trade-off curves: the methods that are compared, and where one curve lies above another."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

# By name: what is set besides the base configuration. The pixel composite is off in all, so that
# the methods are compared and not what is pasted back afterwards.
METHODS: dict[str, tuple[str, ...]] = {
    "DiffEdit": ("method.name=diffedit",),
    "without mask": ("method.name=diffedit", "method.mask.source=full"),
    "without encoding": ("method.name=diffedit", "method.encode=noise"),
    "SDEdit": ("method.name=sdedit", "method.encode=noise", "method.mask.source=full"),
    "Imagic": ("method.name=imagic", "method.mask.source=full"),
}
# Which setting is a method's ratio; Imagic's goes from the input's embedding to the text's.
RATIO_OF = {"SDEdit": "strength", "Imagic": "imagic.interp_eta"}
UNLESS_NAMED = ("DiffEdit", "without mask", "without encoding", "SDEdit")  # Imagic fits a network
IN_ALL = ("method.composite.enabled=false",)
RATIOS = (0.3, 0.45, 0.6, 0.8, 1.0)
# Which figures are the axes: the first pair that every point has.
AXES = (
    ("psnr_db", "confirmed_e2"),
    ("lpips_e3", "clip_whole"),
    ("lpips_e2", "csfid"),
    ("psnr_db", "clip_whole"),
    ("psnr_db", "mask_iou"),
)
HIGHER_IS_NEARER = {"psnr_db"}  # of the distances: more decibels are a smaller distance
LOWER_IS_BETTER = {"csfid"}  # of the agreements


@dataclass(frozen=True)
class Point:
    """One method at one ratio over a benchmark."""

    method: str
    ratio: float
    figures: dict[str, float]  # means over the edits, or of all of them together
    edits: Mapping[str, Mapping[str, float]] = field(default_factory=dict, repr=False)  # by key


Curve = list[tuple[float, float]]  # (distance, agreement), by distance


@dataclass(frozen=True)
class Margins:
    """How far one curve lies above another where both have points to the left and right."""

    low: float
    high: float
    at: list[float]  # every point of either curve between the two, and these
    difference: NDArray[np.float64]  # positive: above

    @property
    def mean(self) -> float:
        """Over the overlap; the curves are straight between the points."""
        if self.high == self.low:
            return float(self.difference.mean())
        return float(np.trapezoid(self.difference, self.at) / (self.high - self.low))

    def at_places(self, places: Sequence[float]) -> NDArray[np.float64]:
        """The difference from 0, the overlap's low end, to 1, its high end."""
        xs = self.low + np.asarray(places) * (self.high - self.low)
        return np.interp(xs, self.at, self.difference)


def overrides_for(method: str, ratio: float) -> list[str]:
    """The overrides of the base configuration for a point.

    Raises:
        ValueError: an unknown method.
    """
    if method not in METHODS:
        raise ValueError(f"no method {method!r}; there are {', '.join(METHODS)}")
    of_ratio = RATIO_OF.get(method, "encode_ratio")
    # one configuration may hold Imagic's settings beside the others'
    no_imagic = () if method == "Imagic" else ("method.imagic=null",)
    return [*METHODS[method], *no_imagic, *IN_ALL, f"method.{of_ratio}={ratio}"]


def axes_of(points: Sequence[Point]) -> tuple[str, str] | None:
    """The figures for distance and agreement that all points have; None where there is no pair."""
    for distance, agreement in AXES:
        if points and all({distance, agreement} <= point.figures.keys() for point in points):
            return distance, agreement
    return None


def compare(points: Sequence[Point], better: str, other: str) -> dict[str, Any] | None:
    """Whether one method's curve lies above another's wherever their distances overlap.

    Both curves are piecewise linear through their points. They are compared at every point of
    either that lies in the overlap.

    Returns:
        JSON-able: the overlap in distance, the difference in agreement (positive where ``better``
        is better) at each distance compared, and whether it is above at all of them. None where
        the curves do not overlap, or have no common figures.
    """
    axes = axes_of(points)
    if axes is None:
        return None
    pairs = [
        [(p.figures[axes[0]], p.figures[axes[1]]) for p in points if p.method == name]
        for name in (better, other)
    ]
    found = margins(*(curve_of(some, axes[1]) for some in pairs), sign=sign_of(axes[1]))
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
    """-1 where less of the figure is better, else 1."""
    return -1.0 if agreement in LOWER_IS_BETTER else 1.0


def curve_of(pairs: Iterable[tuple[float, float]], agreement: str) -> Curve:
    """(distance, agreement) by distance; of points at one distance the better one."""
    best: dict[float, float] = {}
    pick = min if agreement in LOWER_IS_BETTER else max
    for x, y in pairs:
        best[x] = pick(best[x], y) if x in best else y
    return sorted(best.items())


def margins(first: Curve, second: Curve, *, sign: float = 1.0) -> Margins | None:
    """The first curve minus the second one, times ``sign``; None where they have no overlap."""
    curves = first, second
    if any(len(curve) < 2 for curve in curves):
        return None
    low = max(curve[0][0] for curve in curves)
    high = min(curve[-1][0] for curve in curves)
    if low > high:
        return None
    at = sorted({x for curve in curves for x, _ in curve if low <= x <= high})
    return Margins(low, high, at, sign * (along(first, at) - along(second, at)))


def along(curve: Curve, at: Sequence[float]) -> NDArray[np.float64]:
    """A curve's agreement at distances within it."""
    return np.interp(at, [x for x, _ in curve], [y for _, y in curve])
