"""The scenes of the demo world: what they consist of, how they are drawn at random and painted.

A scene is a background with one to three objects. Painting is a pure function of scene and size.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from pipeline.demo.backgrounds import BACKGROUNDS
from pipeline.demo.shapes import SHAPES, Grid

NATIVE_SIZE = 128
SPLITS = ("train", "heldout")
# One scene in eight belongs to the held-out split, chosen by a hash of its description.
_HELDOUT_ONE_IN = 8
COLORS: dict[str, tuple[float, float, float]] = {
    "red": (0.86, 0.10, 0.12),
    "orange": (1.00, 0.50, 0.04),
    "yellow": (1.00, 0.90, 0.15),
    "green": (0.08, 0.62, 0.20),
    "cyan": (0.20, 0.90, 0.92),
    "blue": (0.12, 0.26, 0.90),
    "purple": (0.58, 0.16, 0.74),
    "white": (0.97, 0.97, 0.97),
}
# Colors that are hardly visible on a background. Such pairs are never drawn.
HIDDEN_COLORS: dict[str, frozenset[str]] = {
    "sand dunes": frozenset({"yellow", "orange"}),
    "a meadow": frozenset({"green"}),
    "the sea": frozenset({"blue", "cyan"}),
    "a night sky": frozenset({"blue", "purple"}),
    "a brick wall": frozenset({"red"}),
    "a checkered floor": frozenset({"white"}),
}
# Radius as a share of the image's side.
SIZES: dict[str, float] = {"small": 0.165, "medium": 0.21, "large": 0.265}
_COUNT_WEIGHTS = (0.5, 0.35, 0.15)
_SIZES_FOR_COUNT = {
    1: ("small", "medium", "large"),
    2: ("small", "medium", "large"),
    3: ("small", "medium"),
}
_MARGIN = 1.12  # from the border, in radii: outlines and shadows stay inside the image
_GAP = 1.18  # between centers, in sums of radii
_SHADOW_OFFSET = (0.10, 0.16)  # in radii
_SHADOW_STRENGTH = 0.30


@dataclass(frozen=True)
class SceneObject:
    """One object: center and radius as shares of the image's side, x to the right, y down."""

    shape: str
    color: str
    x: float
    y: float
    radius: float


@dataclass(frozen=True)
class Scene:
    """A background with three parameters in [0, 1) and one to three objects.

    No two objects of a scene share a shape or a color, so a text names each one unambiguously.
    """

    background: str
    parameters: tuple[float, float, float]
    objects: tuple[SceneObject, ...]


def split_of(scene: Scene) -> str:
    """The split that a scene belongs to. It depends on the scene's description only."""
    digest = hashlib.sha256(repr(scene).encode()).digest()
    return "heldout" if digest[0] % _HELDOUT_ONE_IN == 0 else "train"


def sample_scene(seed: int, split: str, index: int) -> Scene:
    """Scene number `index` of a split.

    Scenes are drawn until one's hash puts it into the split, so no scene is in two splits, even
    with different seeds.

    Raises:
        ValueError: the split is unknown.
    """
    if split not in SPLITS:
        raise ValueError(f"split: got {split!r}, allowed are {', '.join(SPLITS)}")
    rng = np.random.default_rng([seed, SPLITS.index(split), index])
    while True:
        scene = draw_scene(rng)
        if split_of(scene) == split:
            return scene


def draw_scene(rng: np.random.Generator, *, num_objects: int | None = None) -> Scene:
    """A random scene; `num_objects` is 1 to 3, or None to draw it (half of all scenes have one)."""
    count = num_objects or int(rng.choice(3, p=_COUNT_WEIGHTS)) + 1
    background = str(rng.choice(list(BACKGROUNDS)))
    visible = [color for color in COLORS if color not in HIDDEN_COLORS[background]]
    shapes = rng.choice(list(SHAPES), size=count, replace=False)
    colors = rng.choice(visible, size=count, replace=False)
    objects = tuple(
        SceneObject(str(shape), str(color), x, y, radius)
        for shape, color, (x, y, radius) in zip(
            shapes, colors, _draw_places(rng, count), strict=True
        )
    )
    p0, p1, p2 = (round(float(value), 4) for value in rng.random(3))
    return Scene(background, (p0, p1, p2), objects)


def _draw_places(rng: np.random.Generator, count: int) -> list[tuple[float, float, float]]:
    """Centers and radii of objects that keep a distance from each other and from the border."""
    while True:
        places: list[tuple[float, float, float]] = []
        for _ in range(count):
            radius = SIZES[str(rng.choice(_SIZES_FOR_COUNT[count]))] * rng.uniform(0.95, 1.05)
            x, y = rng.uniform(_MARGIN * radius, 1 - _MARGIN * radius, size=2)
            places.append((round(float(x), 4), round(float(y), 4), round(float(radius), 4)))
        if all(
            np.hypot(a[0] - b[0], a[1] - b[1]) >= _GAP * (a[2] + b[2])
            for number, a in enumerate(places)
            for b in places[:number]
        ):
            return places


@lru_cache(maxsize=4)
def _pixel_grid(size: int) -> tuple[Grid, Grid]:
    centers = (np.arange(size, dtype=np.float32) + 0.5) / size
    x, y = np.meshgrid(centers, centers)
    x.setflags(write=False)
    y.setflags(write=False)
    return x, y


def paint(scene: Scene, size: int = NATIVE_SIZE) -> NDArray[np.uint8]:
    """Paint a scene at any size.

    Returns:
        (size, size, 3) uint8 RGB, antialiased by the distance to each outline.
    """
    x, y = _pixel_grid(size)
    canvas = BACKGROUNDS[scene.background](x, y, scene.parameters, 1 / size)
    for item in scene.objects:
        _paint_object(canvas, item, size)
    return np.round(np.clip(canvas, 0, 1) * 255).astype(np.uint8)


def _paint_object(canvas: Grid, item: SceneObject, size: int) -> None:
    """Paint an object's shadow and then its lit surface onto the canvas, in place."""
    reach = 1.6 * item.radius
    left, right = (int(np.clip((item.x + side * reach) * size, 0, size)) for side in (-1, 1))
    top, bottom = (int(np.clip((item.y + side * reach) * size, 0, size)) for side in (-1, 1))
    window = (slice(top, bottom), slice(left, right))
    grid_x, grid_y = _pixel_grid(size)
    radius = np.float32(item.radius)
    x = (grid_x[window] - np.float32(item.x)) / radius
    y = (grid_y[window] - np.float32(item.y)) / radius
    outline = SHAPES[item.shape]
    shade_distance = outline(x - np.float32(_SHADOW_OFFSET[0]), y - np.float32(_SHADOW_OFFSET[1]))
    shade = np.float32(_SHADOW_STRENGTH) * np.clip(0.5 - shade_distance / np.float32(0.3), 0, 1)
    area = canvas[window] * (1 - shade[..., None])
    distance = outline(x, y)
    alpha = np.clip(0.5 - distance * np.float32(item.radius * size), 0, 1)[..., None]
    canvas[window] = area + alpha * (_surface(COLORS[item.color], x, y, distance) - area)


def _surface(
    color: tuple[float, float, float],
    x: Grid,
    y: Grid,
    distance: Grid,
) -> Grid:
    """The color of a slightly domed surface lit from the upper left: (h, w, 3) float32."""
    dome = np.clip(-distance / np.float32(0.35), 0, 1)
    light = np.float32(0.90) + np.float32(0.10) * dome - np.float32(0.09) * (x + y)
    gloss = np.float32(0.16) * np.exp(-((x + 0.3) ** 2 + (y + 0.35) ** 2) / np.float32(0.10)) * dome
    lit = np.asarray(color, np.float32) * light[..., None]
    return lit + gloss[..., None] * (1 - lit)
