"""The arms of ``overpaint evaluate augmentation``: their training sets, and their training."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from jobs.augmentation.classifier import (
    Augment,
    Settings,
    as_input,
    classical,
    predictions,
    train_classifier,
)
from jobs.augmentation.figures import BIASED, UNBIASED
from jobs.augmentation.settings import Augmentation
from jobs.augmentation.training_set import LabelledImages, painted, read_training_set
from jobs.augmentation.world import PlantedWorld
from pipeline.demo.captions import caption

CLASSICAL, TRUE_EDITS, LARGE = "classical augmentation", "true edits", "unbiased, as many as mixed"
SPLIT = "train"


@dataclass(frozen=True)
class Arm:
    """A training set, and what is done to each of its batches."""

    data: LabelledImages
    augment: Augment | None = None


@dataclass(frozen=True)
class Accuracies:
    """Of each seed, over all test scenes and over those whose color is not the partner."""

    every: list[float]
    breaking: list[float]


def make_arms(
    settings: Augmentation,
    world: PlantedWorld,
    biased: Sequence[Path],
    mixed: Mapping[str, Sequence[Path]],
) -> dict[str, Arm]:
    """All arms by name.

    Args:
        settings: of the evaluation.
        world: with its bias.
        biased: the shards of the biased set.
        mixed: those of the biased set with each method's edits.
    """
    originals = read_training_set(biased)
    with_edits = {name: read_training_set(tars) for name, tars in mixed.items()}
    many = max(len(data.labels) for data in with_edits.values())
    unbiased = world.unbiased()
    return {
        BIASED: Arm(originals),
        CLASSICAL: Arm(originals, classical),
        **{name: Arm(data) for name, data in with_edits.items()},
        TRUE_EDITS: Arm(_with_true_edits(settings, world)),
        UNBIASED: Arm(drawn(unbiased, "train", settings.world.images)),
        LARGE: Arm(drawn(unbiased, "train", many)),
    }


def drawn(world: PlantedWorld, split: str, count: int) -> LabelledImages:
    """The first scenes of a split, with their true classes."""
    scenes = [world.scene(split, index) for index in range(count)]
    return painted(world, scenes, [caption(scene) for scene in scenes])


def _with_true_edits(settings: Augmentation, world: PlantedWorld) -> LabelledImages:
    """The biased set with edits as a faultless editor would make them: a ceiling."""
    scenes = [world.scene("train", index) for index in range(settings.world.images)]
    targets = [
        target
        for index, scene in enumerate(scenes)
        for target in world.targets(scene, index, settings.world.edits)
    ]
    every = [*scenes, *targets[: round(settings.ratio * len(scenes))]]
    return painted(world, every, [caption(scene) for scene in every])


def train_arms(
    settings: Augmentation, world: PlantedWorld, arms: Mapping[str, Arm], cache: Path
) -> dict[str, Accuracies]:
    """Trains and tests every arm with every seed; what ``cache`` holds is not trained again."""
    test = drawn(world.unbiased(), "heldout", settings.world.test_images)
    inputs, is_partner = as_input(test.images), test.is_partner(world)
    how = Settings(**settings.training.model_dump(exclude={"seeds"}))
    known = _Known(cache)
    found = {}
    for name, arm in arms.items():
        images = as_input(arm.data.images)
        labels = torch.from_numpy(arm.data.labels)

        def accuracies(seed: int, arm=arm, images=images, labels=labels) -> list[float]:
            model = train_classifier(
                images, labels, len(world.classes), how, seed=seed, augment=arm.augment
            )
            right = predictions(model, inputs) == test.labels
            return [float(right.mean()), float(right[~is_partner].mean())]

        key = _digest(name, arm.data, test, how)
        each = [
            known.get(f"{key}-{seed}", accuracies, seed) for seed in range(settings.training.seeds)
        ]
        found[name] = Accuracies([pair[0] for pair in each], [pair[1] for pair in each])
        print(f"{name}: {100 * np.mean(found[name].every):.1f} %", flush=True)
    return found


class _Known:
    """Results by what they depend on, in a JSON file that is written after each."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.results: dict[str, list[float]] = {}
        if path.is_file():
            self.results = json.loads(path.read_text())

    def get(self, key: str, make: Callable[[int], list[float]], seed: int) -> list[float]:
        if key not in self.results:
            self.results[key] = make(seed)
            partial = self.path.with_suffix(".partial")
            partial.write_text(json.dumps(self.results, indent=1) + "\n")
            partial.replace(self.path)
        return self.results[key]


def _digest(name: str, data: LabelledImages, test: LabelledImages, how: Settings) -> str:
    """What a training depends on besides its seed and this version's code."""
    digest = hashlib.sha256(f"{name}, {how}".encode())
    for each in (data, test):
        digest.update(each.images.tobytes())
        digest.update(each.labels.tobytes())
    return digest.hexdigest()[:20]
