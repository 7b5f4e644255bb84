"""The arms of the experiment: a training set each, and the classifiers trained on it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
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
from jobs.augmentation.training_set import LabeledImages, painted, read_training_set
from jobs.augmentation.world import BiasedWorld
from pipeline.demo.captions import caption

CLASSICAL, TRUE_EDITS, LARGE = "classical augmentation", "true edits", "unbiased, as many as mixed"
SPLIT = "train"


@dataclass(frozen=True)
class Arm:
    """A training set, and the augmentation of its batches, if any."""

    data: LabeledImages
    augment: Augment | None = None


@dataclass(frozen=True)
class Accuracies:
    """Accuracies by seed, each in [0, 1]."""

    every: list[float]  # over all test scenes
    breaking: list[float]  # over those whose color is not the partner of the background


def make_arms(
    settings: Augmentation,
    world: BiasedWorld,
    biased: Sequence[Path],
    mixed: Mapping[str, Sequence[Path]],
) -> dict[str, Arm]:
    """Returns all arms by name.

    Args:
        settings: of the experiment.
        world: the biased world.
        biased: the shards of the biased set.
        mixed: by method, the shards of the biased set mixed with the method's edits.
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


def drawn(world: BiasedWorld, split: str, count: int) -> LabeledImages:
    """Paints the first scenes of a split, with their true classes."""
    scenes = [world.scene(split, index) for index in range(count)]
    return painted(world, scenes, [caption(scene) for scene in scenes])


def _with_true_edits(settings: Augmentation, world: BiasedWorld) -> LabeledImages:
    """The biased set with the edits of a perfect editor: the most that edits can do."""
    scenes = [world.scene("train", index) for index in range(settings.world.images)]
    targets = [
        target
        for index, scene in enumerate(scenes)
        for target in world.targets(scene, index, settings.world.edits)
    ]
    every = [*scenes, *targets[: round(settings.ratio * len(scenes))]]
    return painted(world, every, [caption(scene) for scene in every])


def train_arms(
    settings: Augmentation, world: BiasedWorld, arms: Mapping[str, Arm], cache: Path
) -> dict[str, Accuracies]:
    """Trains and tests every arm with every seed; results in ``cache`` are reused."""
    test = drawn(world.unbiased(), "heldout", settings.world.test_images)
    inputs, is_partner = as_input(test.images), test.is_partner(world)
    how = Settings(**settings.training.model_dump(exclude={"seeds"}))

    def accuracies(arm: Arm, seed: int) -> list[float]:
        images, labels = as_input(arm.data.images), torch.from_numpy(arm.data.labels)
        model = train_classifier(
            images, labels, len(world.classes), how, seed=seed, augment=arm.augment
        )
        right = predictions(model, inputs) == test.labels
        return [float(right.mean()), float(right[~is_partner].mean())]

    results = _Results(cache)
    found = {}
    for name, arm in arms.items():
        key = _digest(name, arm.data, test, how)
        pairs = [
            results.get(f"{key}-{seed}", partial(accuracies, arm, seed))
            for seed in range(settings.training.seeds)
        ]
        found[name] = Accuracies([pair[0] for pair in pairs], [pair[1] for pair in pairs])
        print(f"{name}: {100 * np.mean(found[name].every):.1f} %", flush=True)
    return found


class _Results:
    """Results by key, in a JSON file that is rewritten after each new one."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.results: dict[str, list[float]] = {}
        if path.is_file():
            self.results = json.loads(path.read_text())

    def get(self, key: str, compute: Callable[[], list[float]]) -> list[float]:
        if key not in self.results:
            self.results[key] = compute()
            unfinished = self.path.with_suffix(".partial")
            unfinished.write_text(json.dumps(self.results, indent=1) + "\n")
            unfinished.replace(self.path)
        return self.results[key]


def _digest(name: str, data: LabeledImages, test: LabeledImages, how: Settings) -> str:
    """Hash of what a training depends on, except its seed and the code."""
    digest = hashlib.sha256(f"{name}, {how}".encode())
    for images in (data, test):
        digest.update(images.images.tobytes())
        digest.update(images.labels.tobytes())
    return digest.hexdigest()[:20]
