"""The demo world with a bias: in training, the color of the object goes with the background.

Every scene has one object. Its color is the class. The background is a shortcut for a classifier:
it fills most of the image and is much easier to recognize.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from pipeline.demo.captions import PHRASINGS, caption
from pipeline.demo.samples import png_bytes
from pipeline.demo.world import COLORS, HIDDEN_COLORS, Scene, draw_scene, paint, split_of
from pipeline.evaluation.tasks import Task

CLASS_MEMBER = "cls"  # the class's number, as WebDataset decodes it
# Streams of random numbers, so that scenes and edits are drawn independently.
_SCENE, _EDIT = 1, 2


@dataclass(frozen=True)
class BiasedWorld:
    """The demo world with one object per scene, and a bias.

    Attributes:
        partners: a color for each background, all different; these colors are the classes.
        correlation: share of scenes whose color is set to the partner of the background; the others
            have a random class among those that are visible there.
        seed: of the scenes.
    """

    partners: Mapping[str, str]
    correlation: float
    seed: int

    def __post_init__(self) -> None:
        """
        Raises:
            ValueError: the world has no such background or color, or the color is invisible on
                the background.
        """
        for background, color in self.partners.items():
            if background not in HIDDEN_COLORS or color not in COLORS:
                raise ValueError(f"{background!r}: {color!r}: no such background or color")
            if color in HIDDEN_COLORS[background]:
                raise ValueError(f"{color} cannot be seen on {background}")

    @property
    def classes(self) -> tuple[str, ...]:
        """The colors, sorted; the number of a class is its index here."""
        return tuple(sorted(self.partners.values()))

    def unbiased(self) -> BiasedWorld:
        """The same world without the bias, with another seed and so with other scenes."""
        return replace(self, correlation=0.0, seed=self.seed + 1)

    def visible(self, background: str) -> list[str]:
        """The classes that are visible on a background."""
        return [name for name in self.classes if name not in HIDDEN_COLORS[background]]

    def scene(self, split: str, index: int) -> Scene:
        """Draws scene ``index`` of a split ("train" or "heldout")."""
        rng = np.random.default_rng([self.seed, index, _SCENE])
        while True:
            drawn = draw_scene(rng, num_objects=1)
            if drawn.background not in self.partners:
                continue
            color = _pick(rng, self.visible(drawn.background))
            if rng.random() < self.correlation:
                color = self.partners[drawn.background]
            scene = _recolored(drawn, color)
            if split_of(scene) == split:
                return scene

    def class_of(self, scene: Scene) -> int:
        return self.classes.index(scene.objects[0].color)

    def targets(self, scene: Scene, index: int, count: int) -> list[Scene]:
        """The scene in ``count`` other colors, or in as many as are visible."""
        rng = np.random.default_rng([self.seed, index, _EDIT])
        others = [c for c in self.visible(scene.background) if c != scene.objects[0].color]
        return [_recolored(scene, color) for color in rng.permutation(others)[:count].tolist()]

    def tasks(self, count: int, edits: int) -> Iterator[Task]:
        """The biased training set: image, caption, class and edit texts.

        Args:
            count: number of images.
            edits: edit texts per image, each asking for another color.
        """
        for index in range(count):
            scene, phrasing = self.scene("train", index), index % len(PHRASINGS)
            texts = [caption(target, phrasing) for target in self.targets(scene, index, edits)]
            yield Task(
                key=f"{index:05d}",
                image=png_bytes(paint(scene)),
                suffix="png",
                caption=caption(scene, phrasing),
                edit_text="\n".join(texts),
                members={CLASS_MEMBER: str(self.class_of(scene)).encode()},
            )


def _recolored(scene: Scene, color: str) -> Scene:
    return replace(scene, objects=(replace(scene.objects[0], color=color),))


def _pick(rng: np.random.Generator, options: Sequence[str]) -> str:
    return options[int(rng.integers(len(options)))]
