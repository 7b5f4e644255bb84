"""Trade-off curves: the methods that are compared, and where one curve lies above another."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

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
    figures: dict[str, float]


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
    curves = [_curve(points, name, axes) for name in (better, other)]
    if any(len(curve) < 2 for curve in curves):
        return None
    low = max(curve[0][0] for curve in curves)
    high = min(curve[-1][0] for curve in curves)
    if low > high:
        return None
    at = sorted({x for curve in curves for x, _ in curve if low <= x <= high})
    first, second = (
        np.interp(at, [x for x, _ in curve], [y for _, y in curve]) for curve in curves
    )
    sign = -1.0 if axes[1] in LOWER_IS_BETTER else 1.0
    difference = sign * (first - second)
    return {
        "better": better,
        "other": other,
        "distance": axes[0],
        "agreement": axes[1],
        "overlap": [low, high],
        "compared_at": [round(x, 4) for x in at],
        "difference": [round(float(value), 4) for value in difference],
        "above_everywhere": bool((difference > 0).all()),
    }


def _curve(
    points: Sequence[Point], method: str, axes: tuple[str, str]
) -> list[tuple[float, float]]:
    """(distance, agreement) of a method, by distance; equal distances keep the better one."""
    best: dict[float, float] = {}
    pick = min if axes[1] in LOWER_IS_BETTER else max
    for point in points:
        if point.method == method:
            x, y = point.figures[axes[0]], point.figures[axes[1]]
            best[x] = pick(best[x], y) if x in best else y
    return sorted(best.items())
