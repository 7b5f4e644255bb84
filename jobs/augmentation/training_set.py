"""The training and test sets: images with their classes, painted or read from shards."""

from __future__ import annotations

import io
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from jobs.augmentation.world import CLASS_MEMBER, PlantedWorld
from pipeline.demo.readback import load_reader, read_images
from pipeline.demo.world import Scene, paint
from pipeline.storage.archive import read_members

IMAGE_MEMBERS = ("png", "jpg", "webp")


@dataclass(frozen=True)
class LabelledImages:
    """A training or test set.

    `images` is (N, H, W, 3) uint8, `labels` (N,) int64; `texts` say what each is meant to show.
    """

    images: NDArray[np.uint8]
    labels: NDArray[np.int64]
    texts: tuple[str, ...]
    edited: tuple[bool, ...]

    def background(self, number: int, world: PlantedWorld) -> str:
        """The background that an image's text names."""
        return next(name for name in world.partners if name in self.texts[number])

    def is_partner(self, world: PlantedWorld) -> NDArray[np.bool_]:
        """Whether each label is its background's partner: (N,) bool. Its mean is the bias."""
        partners = [
            world.partners[self.background(number, world)] for number in range(len(self.labels))
        ]
        return np.array([world.classes[number] for number in self.labels]) == np.array(partners)


def painted(world: PlantedWorld, scenes: Sequence[Scene], texts: Sequence[str]) -> LabelledImages:
    """Scenes with their true classes."""
    return LabelledImages(
        np.stack([paint(scene) for scene in scenes]),
        np.array([world.class_of(scene) for scene in scenes]),
        tuple(texts),
        (False,) * len(scenes),
    )


def read_training_set(tars: Sequence[Path]) -> LabelledImages:
    """The images of training shards in their order, with the classes that the shards say.

    Raises:
        ValueError: a sample without image or class.
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
        said = json.loads(members["json"]).get("mix", {})
        edited.append(said.get("kind") == "edited")
    return LabelledImages(np.stack(images), np.array(labels), tuple(texts), tuple(edited))


def share_confirmed(data: LabelledImages, classes: Sequence[str]) -> float | None:
    """Of the edited images, the share in which a trained reader sees the color of the label.

    It uses the world's truth: a figure to explain others by, which nothing is trained with.
    """
    numbers = [number for number, is_edited in enumerate(data.edited) if is_edited]
    if not numbers:
        return None
    readings = read_images(load_reader(), data.images[numbers])
    wanted = [classes[data.labels[number]] for number in numbers]
    pairs = zip(readings, wanted, strict=True)
    return float(np.mean([any(c == color for c, _ in seen.objects) for seen, color in pairs]))
