"""Edits with ground truth: the two texts, the true image after the edit, and the true mask."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.demo.backgrounds import BACKGROUNDS
from pipeline.demo.captions import PHRASINGS, caption
from pipeline.demo.shapes import SHAPES
from pipeline.demo.world import COLORS, HIDDEN_COLORS, Scene, paint, sample_scene

# Shapes too similar for an edit between them to show on a 16 x 16 grid (IoU above 0.8).
CLOSE_SHAPES = frozenset({frozenset({"circle", "square"})})
# A pixel differs visibly if any channel differs by more than this, of 255. Any two colors of the
# world differ by more.
VISIBLE = 24
# Smallest difference that counts as a change at all. Shadows have soft edges, and change with the
# shape of their object.
FAINT = 4
# A latent cell is truly edited if at least this share of its pixels is.
CELL_SHARE = 0.25
CELLS = 16  # a side of the bundled model's latent grid


@dataclass(frozen=True)
class Edit:
    """A source scene, a target scene, and their two texts in one phrasing.

    `changed` holds the indices of the objects that the edit changes.
    """

    kind: str
    source: Scene
    target: Scene
    caption: str
    edit_text: str
    changed: tuple[int, ...]

    @property
    def background_changed(self) -> bool:
        """Whether the background is edited."""
        return self.source.background != self.target.background


def _with_object(scene: Scene, number: int, **fields: Any) -> Scene:
    objects = list(scene.objects)
    objects[number] = replace(objects[number], **fields)
    return replace(scene, objects=tuple(objects))


def _pick(rng: np.random.Generator, options: list[str]) -> str:
    return options[int(rng.integers(len(options)))]


def change_color(rng: np.random.Generator, scene: Scene, number: int) -> Scene:
    """Give one object a visible color that no object of the scene has."""
    used = {item.color for item in scene.objects} | HIDDEN_COLORS[scene.background]
    return _with_object(
        scene, number, color=_pick(rng, [color for color in COLORS if color not in used])
    )


def change_shape(rng: np.random.Generator, scene: Scene, number: int) -> Scene:
    """Give one object a clearly different shape that no object of the scene has."""
    used = {item.shape for item in scene.objects}
    old = scene.objects[number].shape
    options = [
        shape
        for shape in SHAPES
        if shape not in used and frozenset({shape, old}) not in CLOSE_SHAPES
    ]
    return _with_object(scene, number, shape=_pick(rng, options))


def change_object(rng: np.random.Generator, scene: Scene, number: int) -> Scene:
    """Replace one object by one of another shape and color."""
    return change_shape(rng, change_color(rng, scene, number), number)


def change_background(rng: np.random.Generator, scene: Scene, number: int) -> Scene:
    """Put the same objects on another background on which all of them are visible."""
    colors = {item.color for item in scene.objects}
    suitable = [
        name
        for name in BACKGROUNDS
        if name != scene.background and not colors & HIDDEN_COLORS[name]
    ]
    if not suitable:
        raise ValueError("the scene's colors are not all visible on any other background")
    return replace(scene, background=_pick(rng, suitable))


def change_several(rng: np.random.Generator, scene: Scene, number: int) -> Scene:
    """Change one object's color and the background."""
    return change_color(rng, change_background(rng, scene, number), number)


_CHANGES: dict[str, Callable[[np.random.Generator, Scene, int], Scene]] = {
    "color": change_color,
    "shape": change_shape,
    "object": change_object,
    "background": change_background,
    "several": change_several,
}
KINDS = tuple(_CHANGES)


def draw_edit(rng: np.random.Generator, scene: Scene, kind: str) -> Edit:
    """Draw a random edit of a kind, with its texts in a random phrasing.

    Raises:
        ValueError: the kind is unknown, or the scene allows no edit of this kind.
    """
    if kind not in _CHANGES:
        raise ValueError(f"kind: got {kind!r}, allowed are {', '.join(KINDS)}")
    number = int(rng.integers(len(scene.objects)))
    phrasing = int(rng.integers(len(PHRASINGS)))
    target = _CHANGES[kind](rng, scene, number)
    pairs = enumerate(zip(scene.objects, target.objects, strict=True))
    changed = tuple(index for index, (before, after) in pairs if before != after)
    return Edit(kind, scene, target, caption(scene, phrasing), caption(target, phrasing), changed)


def sample_edit(seed: int, split: str, index: int, *, kinds: tuple[str, ...] = KINDS) -> Edit:
    """Edit number `index`: on a scene of the split, with the kinds used in turn."""
    rng = np.random.default_rng([seed, index, 1])
    kind, number = kinds[index % len(kinds)], index
    while True:
        try:
            return draw_edit(rng, sample_scene(seed, split, number), kind)
        except ValueError as error:
            if kind not in KINDS:
                raise
            # Rare: no other background suits the scene's colors. Take a scene with another index.
            number += 1_000_003
            if number > 100 * 1_000_003:
                raise RuntimeError(f"no scene allows an edit of kind {kind!r}") from error


def true_mask(edit: Edit, *, differs: int = VISIBLE) -> NDArray[np.bool_]:
    """Where the two true images differ by more than `differs`: (128, 128) bool.

    VISIBLE includes the core of a shadow. FAINT includes everything that the edit changes: with
    VISIBLE, the true image of a shape edit itself has only 40 dB PSNR outside the mask.
    """
    before, after = (paint(scene).astype(np.int16) for scene in (edit.source, edit.target))
    return np.asarray(np.abs(before - after).max(axis=2) > differs)


def mask_on_grid(mask: NDArray[np.bool_], share: float = CELL_SHARE) -> NDArray[np.bool_]:
    """Convert a pixel mask to the latent grid: (16, 16) bool.

    A cell is true if at least `share` of its pixels is.

    Raises:
        ValueError: the mask's sides are not multiples of 16.
    """
    height, width = mask.shape
    if height % CELLS or width % CELLS:
        raise ValueError(
            f"mask: {height} x {width} pixels do not divide into {CELLS} x {CELLS} cells"
        )
    blocks = mask.reshape(CELLS, height // CELLS, CELLS, width // CELLS)
    return np.asarray(blocks.mean(axis=(1, 3)) >= share)
