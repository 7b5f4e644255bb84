"""The demo world: how scenes are drawn, painted and captioned."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from pipeline.demo.backgrounds import BACKGROUNDS
from pipeline.demo.captions import PHRASINGS, caption
from pipeline.demo.shapes import SHAPES
from pipeline.demo.world import (
    COLORS,
    HIDDEN_COLORS,
    Scene,
    SceneObject,
    paint,
    sample_scene,
    split_of,
)
from tests.demo.coverage import coverage

SCENES = [sample_scene(0, "train", index) for index in range(300)]
ONE = Scene("a meadow", (0.1, 0.2, 0.3), (SceneObject("star", "orange", 0.4, 0.5, 0.2),))


def test_scene_depends_on_seed_split_and_index_only() -> None:
    """Equal arguments give the same scene; changing any of them gives another."""
    assert sample_scene(3, "train", 7) == sample_scene(3, "train", 7)
    others = [
        sample_scene(4, "train", 7),
        sample_scene(3, "heldout", 7),
        sample_scene(3, "train", 8),
    ]
    assert sample_scene(3, "train", 7) not in others


def test_splits_cannot_share_a_scene() -> None:
    """Every scene's own description puts it into the split that it was drawn for."""
    for split, seed in itertools.product(("train", "heldout"), range(3)):
        assert {split_of(sample_scene(seed, split, index)) for index in range(50)} == {split}


def test_unknown_split_is_named() -> None:
    """The error names the given split and the allowed ones."""
    with pytest.raises(ValueError, match="'test', allowed are train, heldout"):
        sample_scene(0, "test", 0)


def test_world_covers_every_count_shape_color_and_background() -> None:
    """Scenes have one to three objects, six shapes, eight colors and six backgrounds."""
    objects = [item for scene in SCENES for item in scene.objects]
    assert {len(scene.objects) for scene in SCENES} == {1, 2, 3}
    assert {item.shape for item in objects} == set(SHAPES)
    assert {item.color for item in objects} == set(COLORS)
    assert {scene.background for scene in SCENES} == set(BACKGROUNDS)
    assert len(SHAPES) >= 6
    assert len(COLORS) >= 8
    assert len(BACKGROUNDS) >= 6


def test_every_object_is_visible_and_unambiguous() -> None:
    """Colors are visible on their background and used once; outlines do not overlap."""
    for scene in SCENES:
        colors = [item.color for item in scene.objects]
        assert not set(colors) & HIDDEN_COLORS[scene.background]
        assert len(set(colors)) == len({item.shape for item in scene.objects}) == len(colors)
        assert np.sum([coverage(item, 64) for item in scene.objects], axis=0).max() <= 1.01


def test_visible_colors_differ_from_their_background() -> None:
    """An object changes some channel by more than 60 of 255, in the median over its pixels."""
    for background, color in itertools.product(BACKGROUNDS, COLORS):
        if color in HIDDEN_COLORS[background]:
            continue
        item = SceneObject("circle", color, 0.5, 0.5, 0.25)
        bare, scene = (paint(Scene(background, (0.4, 0.6, 0.5), each)) for each in ((), (item,)))
        inside = coverage(item) == 1
        differences = np.abs(scene.astype(int) - bare.astype(int)).max(axis=2)[inside]
        assert np.median(differences) > 60, (background, color)


@pytest.mark.parametrize("shape", SHAPES)
def test_outline_area_does_not_depend_on_resolution(shape: str) -> None:
    """The antialiased area is the same at 32 and 256 pixels, to one percent."""
    item = SceneObject(shape, "red", 0.47, 0.52, 0.25)
    assert coverage(item, 32).mean() == pytest.approx(coverage(item, 256).mean(), rel=0.01)


def test_circle_area_solved_by_hand() -> None:
    """The area is pi (0.95 r)^2."""
    area = coverage(SceneObject("circle", "red", 0.5, 0.5, 0.25), 256).mean()
    assert area == pytest.approx(np.pi * (0.95 * 0.25) ** 2, rel=1e-3)


def test_painting_at_another_size_shows_the_same_scene() -> None:
    """An image painted at 256 pixels and averaged down is close to one painted at 128."""
    large, small = paint(ONE, 256).astype(float), paint(ONE, 128).astype(float)
    averaged = large.reshape(128, 2, 128, 2, 3).mean(axis=(1, 3))
    assert np.abs(averaged - small).mean() < 1.5
    assert small.shape == (128, 128, 3)


def test_painting_is_pure() -> None:
    """Painting a scene again gives equal bytes, even after painting another one."""
    first = paint(ONE)
    paint(SCENES[0])
    assert (paint(ONE) == first).all()


def test_caption_names_everything() -> None:
    """Every phrasing names each object and the background, with the right article."""
    assert caption(ONE, 0) == "an orange star on a meadow"
    for scene, phrasing in itertools.product(SCENES[:50], range(len(PHRASINGS))):
        text = caption(scene, phrasing)
        assert scene.background in text
        assert all(f"{item.color} {item.shape}" in text for item in scene.objects)
