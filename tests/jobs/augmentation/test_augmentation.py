"""The augmentation experiment: the bias, the figures, the classifier, and a small run."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

from jobs.augmentation.arms import drawn
from jobs.augmentation.classifier import (
    Settings,
    as_input,
    classical,
    predictions,
    train_classifier,
)
from jobs.augmentation.command import SETTINGS
from jobs.augmentation.figures import gap_closed, interval, summarise
from jobs.augmentation.training_set import read_training_set
from jobs.augmentation.world import BiasedWorld
from jobs.cli import main
from pipeline.demo.world import split_of

PARTNERS = yaml.safe_load(SETTINGS.read_text())["world"]["partners"]


@pytest.mark.parametrize("correlation", [0.0, 0.5, 0.95, 1.0])
def test_share_of_partners_follows_the_correlation(correlation: float) -> None:
    """It is the correlation plus the partners among random colors; 600 scenes, 4 sigma."""
    world = BiasedWorld(PARTNERS, correlation, seed=3)
    scenes = [world.scene("train", index) for index in range(600)]
    hits = np.mean([item.objects[0].color == PARTNERS[item.background] for item in scenes])
    chance = np.mean([1 / len(world.visible(item.background)) for item in scenes])
    expected = correlation + (1 - correlation) * chance
    assert abs(hits - expected) <= 4 * (expected * (1 - expected) / 600) ** 0.5
    assert {split_of(scene) for scene in scenes} == {"train"}
    assert world.unbiased().correlation == 0
    unbiased = {world.unbiased().scene("heldout", index) for index in range(50)}
    assert {split_of(scene) for scene in unbiased} == {"heldout"}


def test_edits_ask_for_another_color_that_can_be_seen() -> None:
    """The edits of a scene ask for different colors; only the color changes; texts name it."""
    world = BiasedWorld(PARTNERS, 1.0, seed=0)
    for index, task in enumerate(world.tasks(20, 2)):
        scene = world.scene("train", index)
        targets = world.targets(scene, index, 2)
        colors = [target.objects[0].color for target in targets]
        assert len({scene.objects[0].color, *colors}) == 3
        assert set(colors) <= set(world.visible(scene.background))
        assert all(target.background == scene.background for target in targets)
        texts = task.edit_text.split("\n")
        assert [color in text for color, text in zip(colors, texts, strict=True)] == [True, True]
        assert task.members["cls"] == str(world.class_of(scene)).encode()


@pytest.mark.parametrize(
    ("pair", "words"),
    [
        ({"the sea": "blue"}, "cannot be seen on the sea"),
        ({"the sea": "pink"}, "no such background or color"),
    ],
)
def test_impossible_pairs_are_refused(pair: dict[str, str], words: str) -> None:
    """A color that is invisible on its background, or that the world does not have."""
    with pytest.raises(ValueError, match=words):
        BiasedWorld({"a meadow": "red", **pair}, 1.0, 0)


def test_gap_closed_by_hand() -> None:
    """Half of the gap and all of it, t with 1 and 4 degrees of freedom, and no gap."""
    closed = gap_closed([0.5, 0.9], [0.2, 0.4], [0.8, 0.9])
    assert closed is not None
    assert closed["each"] == pytest.approx([0.5, 1.0])
    assert closed["mean"] == pytest.approx(0.75)
    # two values: standard error |1.0 - 0.5| / 2, times 12.706
    assert closed["low"] == pytest.approx(0.75 - 12.706 * 0.25)
    found = interval([1.0, 2.0, 3.0, 4.0, 5.0])
    assert found["high"] == pytest.approx(3 + 2.776 * (2.5 / 5) ** 0.5)
    assert gap_closed([0.5, 0.5], [0.4, 0.4], [0.4, 0.8]) is None
    arms = {"biased": [0.2, 0.2], "edits": [0.5, 0.6], "unbiased": [1.0, 1.0]}
    assert "gap_closed" not in summarise(arms)["biased"]
    assert summarise(arms)["edits"]["gap_closed"]["mean"] == pytest.approx(0.4375)


def test_biased_classifier_reads_the_background_and_unbiased_one_the_object() -> None:
    """Where color and background are not partners, the biased classifier is wrong."""
    world = BiasedWorld(PARTNERS, 1.0, seed=0)
    test = drawn(world.unbiased(), "heldout", 200)
    partner = test.is_partner(world)
    how, accuracy = Settings(steps=150, batch_size=32, learning_rate=6e-3), {}
    for name, data in {
        "biased": drawn(world, "train", 150),
        "unbiased": drawn(world.unbiased(), "train", 150),
    }.items():
        labels = torch.from_numpy(data.labels)
        model = train_classifier(as_input(data.images), labels, 6, how, seed=0)
        right = predictions(model, as_input(test.images)) == test.labels
        accuracy[name] = (right[partner].mean(), right[~partner].mean())
    assert accuracy["biased"][0] > 0.95
    assert accuracy["biased"][1] < 0.1
    assert min(accuracy["unbiased"]) > 0.9


def test_seed_decides_the_training(generator: torch.Generator) -> None:
    """Equal seeds give equal weights with any number of threads; no global generator is used."""
    images = torch.rand(8, 3, 32, 32, generator=generator)
    labels, how = torch.arange(8) % 2, Settings(3, 4, 1e-3)

    def weights(seed: int) -> torch.Tensor:
        model = train_classifier(images, labels, 2, how, seed=seed, augment=classical)
        return torch.cat([weight.detach().flatten() for weight in model.parameters()])

    first = weights(1)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(7)  # another state of the global generator than before
        state = torch.random.get_rng_state()
        assert torch.equal(weights(1), first)
        assert torch.equal(torch.random.get_rng_state(), state)
    assert not torch.equal(weights(2), first)
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(2)
        assert torch.equal(weights(1), first)
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(threads)


def test_classical_augmentation_keeps_range_and_hue(generator: torch.Generator) -> None:
    """Each image has its own random changes, stays in [0, 1] and keeps its hue."""
    flat = torch.tensor([0.7, 0.4, 0.2]).view(1, 3, 1, 1).expand(6, 3, 32, 32)
    changed = classical(flat, generator)
    assert len({tuple(image.flatten()[:1].tolist()) for image in changed}) == 6
    red, green, blue = changed.mean((2, 3)).T
    hue = (green - blue) / (red - blue)
    assert torch.allclose(hue, torch.full((6,), 0.4), atol=1e-4)
    textured = torch.rand(8, 3, 32, 32, generator=generator)
    changed = classical(textured, generator)
    assert (changed.min().item(), changed.max().item()) == (0, 1)  # the contrast is clipped
    assert not torch.equal(changed, textured)


@pytest.mark.slow
def test_evaluation_from_one_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A small run edits, mixes, trains and reports; the same command again reuses everything."""
    command = [
        *("evaluate", "augmentation", "--out", str(tmp_path), "world.images=6"),
        *("world.test_images=30", "training.seeds=2", "training.steps=4"),
        *("edit.method.steps=2", "edit.method.mask.num_noises=1"),
    ]
    assert main(command) == 0
    report = json.loads((tmp_path / "evaluation.json").read_text())
    assert list(report["arms"]) == [
        *("biased", "classical augmentation", "DiffEdit", "SDEdit", "true edits", "unbiased"),
        "unbiased, as many as mixed",
    ]
    edits = report["edits"]["SDEdit"]
    assert edits["taken"] == 6
    assert report["arms"]["SDEdit"]["pictures"] == 12
    assert report["arms"]["SDEdit"]["with_partner"] <= 0.5
    assert 0 <= edits["confirmed"] <= 1
    assert all(len(arm["accuracy"]["each"]) == 2 for arm in report["arms"].values())
    assert (tmp_path / "evaluation.png").is_file()
    assert "| DiffEdit | 12 |" in capsys.readouterr().out

    # the class of an edit is the color that its text asks for, not what the image shows
    mixed = read_training_set([tmp_path / "mixed/SDEdit/train/00000.tar"])
    classes = sorted(PARTNERS.values())
    pairs = zip(mixed.texts, mixed.labels, strict=True)
    assert all(classes[label] in text.split() for text, label in pairs)

    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.tar")}
    trained = (tmp_path / "trainings.json").stat().st_mtime_ns
    assert main(command) == 0
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.tar")} == before
    assert (tmp_path / "trainings.json").stat().st_mtime_ns == trained
    assert main([*command, "ratio=0.5"]) == 2
    assert "holds another mix (ratio: it has 1.0, this run asks for 0.5)" in capsys.readouterr().err
    assert main([*command, "world.partners={the sea: blue, a meadow: red}"]) == 2
    assert "world.partners: blue cannot be seen on the sea" in capsys.readouterr().err
