"""What a training set is worth: accuracies with intervals, and the share of the gap that it closes.

An arm is a way to make a training set. All arms are trained for the same number of steps and
tested on the same unbiased, held-out scenes.
"""

from __future__ import annotations

import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from pipeline.demo.readback import load_reader, read_images
from pipeline.demo.world import Scene, paint
from pipeline.evaluation.planted import CLASS_MEMBER, PlantedWorld
from pipeline.storage.archive import read_members

BIASED, UNBIASED = "biased", "unbiased"
# Two-sided 95 % quantiles of Student's t distribution, for 1 to 9 degrees of freedom.
T_975 = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262)
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


def interval(values: Sequence[float]) -> dict[str, float]:
    """Mean and 95 % interval of the mean, by Student's t.

    Args:
        values: 2 to 10 of them.
    """
    mean = float(np.mean(values))
    spread = float(np.std(values, ddof=1)) / len(values) ** 0.5
    half = T_975[len(values) - 2] * spread
    return {"mean": mean, "low": mean - half, "high": mean + half}


def gap_closed(
    arm: Sequence[float], biased: Sequence[float], unbiased: Sequence[float]
) -> dict[str, Any] | None:
    """(arm - biased) / (unbiased - biased), seed by seed, with its interval.

    Args:
        arm: accuracy of each seed; the others in the same order of seeds.

    Returns:
        JSON-able; None where a seed's biased classifier is no worse than its unbiased one, so that
        there is no gap to close.
    """
    gaps = [b - a for a, b in zip(biased, unbiased, strict=True)]
    if min(gaps) <= 0:
        return None
    each = [(value - a) / gap for value, a, gap in zip(arm, biased, gaps, strict=True)]
    return interval(each) | {"each": each}


def summarise(accuracies: Mapping[str, Sequence[float]]) -> dict[str, dict[str, Any]]:
    """Accuracy and share of the gap closed of each arm, with intervals."""
    found = {}
    for name, values in accuracies.items():
        of_arm: dict[str, Any] = {"accuracy": interval(values) | {"each": list(values)}}
        if name not in (BIASED, UNBIASED):
            ends = accuracies[BIASED], accuracies[UNBIASED]
            of_arm["gap_closed"] = gap_closed(values, *ends)
        found[name] = of_arm
    return found


def table(arms: Mapping[str, Mapping[str, Any]]) -> str:
    """The arms as Markdown, in percent."""
    lines = [
        "| training set | images | label is the partner's | accuracy | gap closed |",
        "|---|---|---|---|---|",
    ]
    for name, arm in arms.items():
        closed = arm.get("gap_closed")
        cells = [
            str(arm["pictures"]),
            f"{100 * arm['with_partner']:.0f} %",
            _percent(arm["accuracy"]),
            "" if closed is None else _percent(closed),
        ]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _percent(value: Mapping[str, float]) -> str:
    mean, low, high = (f"{100 * value[name]:.1f}" for name in ("mean", "low", "high"))
    return f"{mean} ({low} to {high})"
