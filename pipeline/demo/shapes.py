"""The shapes of the demo world: one signed distance function for each outline.

Each function takes coordinates relative to the object's center, in units of its radius (x to the
right, y down), and returns the signed distance to the outline in the same units: negative inside.
The sizes are chosen so that all shapes cover about the same area.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

Grid = NDArray[Any]  # float32
# Reflections in these two directions fold the lower edges of an upright star onto the upper one.
_STAR_FOLDS = ((0.809017, -0.587785), (-0.809017, -0.587785))


def circle(x: Grid, y: Grid) -> Grid:
    """A disc of radius 0.95."""
    return np.hypot(x, y) - np.float32(0.95)


def _box(x: Grid, y: Grid, half_width: float, half_height: float, rounding: float) -> Grid:
    dx = np.abs(x) - np.float32(half_width - rounding)
    dy = np.abs(y) - np.float32(half_height - rounding)
    outside = np.hypot(np.maximum(dx, 0), np.maximum(dy, 0))
    return outside + np.minimum(np.maximum(dx, dy), 0) - np.float32(rounding)


def square(x: Grid, y: Grid) -> Grid:
    """A box of side 1.74 with slightly rounded corners."""
    return _box(x, y, 0.87, 0.87, 0.08)


def cross(x: Grid, y: Grid) -> Grid:
    """A plus sign whose arms are 0.68 wide."""
    return np.minimum(_box(x, y, 1.08, 0.34, 0.06), _box(x, y, 0.34, 1.08, 0.06))


def triangle(x: Grid, y: Grid) -> Grid:
    """An upright triangle with equal sides."""
    y = y - np.float32(0.22)
    slope = np.float32(0.866025) * np.abs(x) - np.float32(0.5) * y
    return np.maximum(slope, y) - np.float32(0.64)


def star(x: Grid, y: Grid) -> Grid:
    """An upright five-pointed star (folds the plane to one tenth, where it is one segment)."""
    x, y = np.abs(x), -(y - np.float32(0.06))
    for fold_x, fold_y in _STAR_FOLDS:
        reach = 2 * np.maximum(np.float32(fold_x) * x + np.float32(fold_y) * y, 0)
        x, y = x - reach * np.float32(fold_x), y - reach * np.float32(fold_y)
    x, y = np.abs(x), y - np.float32(1.25)
    edge_x, edge_y = np.float32(0.5 * 0.587785), np.float32(0.5 * 0.809017 - 1)
    along = np.clip((x * edge_x + y * edge_y) / (edge_x**2 + edge_y**2), 0, 1.25)
    distance = np.hypot(x - edge_x * along, y - edge_y * along)
    return distance * np.sign(y * edge_x - x * edge_y)


def heart(x: Grid, y: Grid) -> Grid:
    """A heart: two arcs at the top, a right angle at the bottom."""
    scale = np.float32(1.85)
    x, y = np.abs(x) / scale, (np.float32(0.98) - y) / scale
    arcs = np.hypot(x - np.float32(0.25), y - np.float32(0.75)) - np.float32(0.353553)
    reach = np.float32(0.5) * np.maximum(x + y, 0)
    corner = np.minimum(np.hypot(x, y - 1), np.hypot(x - reach, y - reach)) * np.sign(x - y)
    return np.asarray(np.where(x + y > 1, arcs, corner) * scale)


SHAPES: dict[str, Callable[[Grid, Grid], Grid]] = {
    "circle": circle,
    "square": square,
    "triangle": triangle,
    "star": star,
    "heart": heart,
    "cross": cross,
}
