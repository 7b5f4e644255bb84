"""The backgrounds of the demo world: smooth textures with three parameters each.

Each function takes image coordinates in [0, 1] (x to the right, y down), three parameters in
[0, 1) and the size of a pixel in the same units, and returns (h, w, 3) float32 colors in [0, 1].
They have little detail, so that a small VAE can reconstruct them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

Grid = NDArray[Any]  # float32
Parameters = tuple[float, float, float]
_NUM_STARS = 9
# Steps of a two-dimensional low-discrepancy sequence (1/g and 1/g^2 with g^3 = g + 1).
_STAR_STEP = (0.7548777, 0.5698403)
_TWO_PI = 2 * np.pi


def _mix(first: tuple[float, ...], second: tuple[float, ...], share: Grid) -> Grid:
    """Interpolate from the first to the second color; share: (h, w) in [0, 1]."""
    start, end = np.asarray(first, np.float32), np.asarray(second, np.float32)
    return np.asarray(start + share[..., None] * (end - start))


def _wave(phase: Grid) -> Grid:
    return np.sin(np.float32(_TWO_PI) * phase)


def _soft_square(phase: Grid, softness: float) -> Grid:
    """A square wave in [0, 1] whose edges are `softness` times a quarter period wide."""
    return np.clip(0.5 + _wave(phase) / np.float32(2 * max(softness, 1e-3)), 0, 1)


def dunes(x: Grid, y: Grid, p: Parameters, pixel: float) -> Grid:
    """Sand in soft ridges."""
    bend = np.float32(0.22) * _wave(x * np.float32(0.8 + 0.4 * p[2]) + np.float32(p[0]))
    ridge = _wave(3 * y + bend + np.float32(p[1]))
    return _mix(
        (0.90, 0.79, 0.60), (0.74, 0.60, 0.43), np.clip(0.2 + 0.45 * y + 0.28 * ridge, 0, 1)
    )


def meadow(x: Grid, y: Grid, p: Parameters, pixel: float) -> Grid:
    """Grass, mown in diagonal stripes."""
    stripe = _wave(np.float32(2.5) * (x + np.float32(0.5 * p[1] - 0.25) * y) + np.float32(p[0]))
    share = np.clip(0.5 + 0.35 * np.tanh(2 * stripe) + np.float32(0.3 * (p[2] - 0.5)) * y, 0, 1)
    return _mix((0.36, 0.55, 0.27), (0.50, 0.68, 0.37), share)


def sea(x: Grid, y: Grid, p: Parameters, pixel: float) -> Grid:
    """Water, darker towards the bottom, with low waves."""
    swell = _wave(5 * y + np.float32(0.12) * _wave(2 * x + np.float32(p[0])) + np.float32(p[1]))
    share = np.clip(0.85 - (0.5 + 0.2 * np.float32(p[2])) * y + 0.12 * swell, 0, 1)
    return _mix((0.10, 0.27, 0.45), (0.42, 0.66, 0.78), share)


def night_sky(x: Grid, y: Grid, p: Parameters, pixel: float) -> Grid:
    """Dusk in dark blue with a few stars."""
    colors = _mix(
        (0.04, 0.05, 0.13), (0.17, 0.16, 0.33), np.clip(y + np.float32(0.3 * p[2]) - 0.15, 0, 1)
    )
    width = np.float32(2 * max(0.012, 0.7 * pixel) ** 2)
    for index in range(_NUM_STARS):
        star_x = (p[0] + index * _STAR_STEP[0]) % 1
        star_y = (p[1] + index * _STAR_STEP[1]) % 1
        across = np.exp(-((x[:1] - np.float32(star_x)) ** 2) / width)
        down = np.exp(-((y[:, :1] - np.float32(star_y)) ** 2) / width)
        colors += (down * across * np.float32(0.55 if index % 3 else 0.8))[..., None]
    return np.minimum(colors, 1)


def brick_wall(x: Grid, y: Grid, p: Parameters, pixel: float) -> Grid:
    """Bricks in running bond with pale, soft joints."""
    rows = y * 6 + np.float32(p[0])
    row = np.floor(rows)
    columns = x * 3 + np.float32(p[1]) + np.float32(0.5) * (row % 2)
    to_joint = np.minimum(
        np.minimum(rows - row, 1 - (rows - row)) / 6,
        np.minimum(columns % 1, 1 - columns % 1) / 3,
    )
    soft = np.float32(max(0.016, pixel))
    joint = np.clip(1 - (to_joint - np.float32(0.004)) / soft, 0, 1)
    base = _mix(
        (0.50, 0.33, 0.28),
        (0.58, 0.40, 0.33),
        np.float32(p[2]) * (1 - y) + np.float32(1 - p[2]) * y,
    )
    joint_color = np.asarray((0.72, 0.66, 0.60), np.float32)
    return np.asarray(base + joint[..., None] * (joint_color - base))


def checkered_floor(x: Grid, y: Grid, p: Parameters, pixel: float) -> Grid:
    """Tiles in two shades of gray."""
    soft = max(0.25, 8 * pixel)
    across = _soft_square(2 * x + np.float32(p[0]), soft)
    down = _soft_square(2 * y + np.float32(p[1]), soft)
    share = across + down - 2 * across * down
    return _mix((0.40, 0.40, 0.43), (0.60, 0.60, 0.62), share) * np.float32(0.95 + 0.1 * p[2])


BACKGROUNDS: dict[str, Callable[[Grid, Grid, Parameters, float], Grid]] = {
    "sand dunes": dunes,
    "a meadow": meadow,
    "the sea": sea,
    "a night sky": night_sky,
    "a brick wall": brick_wall,
    "a checkered floor": checkered_floor,
}
