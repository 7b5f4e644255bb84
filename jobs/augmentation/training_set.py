"""Training and test sets: images with classes, painted or read from shards."""

from __future__ import annotations

import io
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from jobs.augmentation.world import CLASS_MEMBER, BiasedWorld
from pipeline.demo.readback import load_reader, read_images
from pipeline.demo.world import Scene, paint
from pipeline.storage.archive import read_members

IMAGE_MEMBERS = ("png", "jpg", "webp")


@dataclass(frozen=True)
class LabeledImages:
    """A training or test set."""

    images: NDArray[np.uint8]  # (N, H, W, 3)
    labels: NDArray[np.int64]  # (N,)
    texts: tuple[str, ...]  # N captions or edit texts
    edited: tuple[bool, ...]  # N

    def background(self, number: int, world: BiasedWorld) -> str:
        """The background that the text of an image names."""
        return next(name for name in world.partners if name in self.texts[number])

    def is_partner(self, world: BiasedWorld) -> NDArray[np.bool_]:
        """Whether each label is its background's partner: (N,) bool. Its mean is the bias."""
        partners = [
            world.partners[self.background(number, world)] for number in range(len(self.labels))
        ]
        colors = [world.classes[number] for number in self.labels]
        return np.array([color == other for color, other in zip(colors, partners, strict=True)])


def painted(world: BiasedWorld, scenes: Sequence[Scene], texts: Sequence[str]) -> LabeledImages:
    """Paints scenes, with their true classes."""
    return LabeledImages(
        np.stack([paint(scene) for scene in scenes]),
        np.array([world.class_of(scene) for scene in scenes]),
        tuple(texts),
        (False,) * len(scenes),
    )


def read_training_set(tars: Sequence[Path]) -> LabeledImages:
    """Reads the images of training shards in order, with their classes.

    Raises:
        ValueError: a sample has no image or no class.
    """
    samples: dict[tuple[str, str], dict[str, bytes]] = {}
    for path in tars:
        for name, data in read_members(path.read_bytes())[0]:
            key, _, suffix = name.partition(".")
            samples.setdefault((path.name, key), {})[suffix] = data
    images, labels, texts, edited = [], [], [], []
    for (shard, key), members in samples.items():
        encoded = next((members[name] for name in IMAGE_MEMBERS if name in members), None)
        if encoded is None or CLASS_MEMBER not in members:
            raise ValueError(f"{shard}: {key} has no image or no .{CLASS_MEMBER}")
        images.append(np.asarray(Image.open(io.BytesIO(encoded)).convert("RGB")))
        labels.append(int(members[CLASS_MEMBER]))
        texts.append(members["txt"].decode())
        mix = json.loads(members["json"]).get("mix", {})
        edited.append(mix.get("kind") == "edited")
    return LabeledImages(np.stack(images), np.array(labels), tuple(texts), tuple(edited))


def share_confirmed(data: LabeledImages, classes: Sequence[str]) -> float | None:
    """The share of the edited images in which the scene reader sees the color of the label.

    None if no image is edited. The figure explains others; no training uses it.
    """
    numbers = [number for number, is_edited in enumerate(data.edited) if is_edited]
    if not numbers:
        return None
    readings = read_images(load_reader(), data.images[numbers])
    wanted = [classes[data.labels[number]] for number in numbers]
    pairs = zip(readings, wanted, strict=True)
    return float(np.mean([any(c == color for c, _ in seen.objects) for seen, color in pairs]))
