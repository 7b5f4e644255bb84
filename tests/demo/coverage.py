"""The share of each pixel that an object of the demo world covers."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from pipeline.demo.shapes import SHAPES
from pipeline.demo.world import NATIVE_SIZE, SceneObject


def coverage(item: SceneObject, size: int = NATIVE_SIZE) -> NDArray[np.float32]:
    """(size, size) float32 in [0, 1], by the distance of each pixel's center to the outline."""
    centers = (np.arange(size, dtype=np.float32) + 0.5) / size
    x, y = np.meshgrid(centers, centers)
    distance = SHAPES[item.shape]((x - item.x) / item.radius, (y - item.y) / item.radius)
    return np.clip(0.5 - distance * np.float32(item.radius * size), 0, 1)
