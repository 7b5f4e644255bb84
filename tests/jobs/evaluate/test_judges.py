"""Judges of finished runs: annotated regions, FlexIT's images and classes."""

from __future__ import annotations

import itertools
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from transformers.models.vit.image_processing_pil_vit import ViTImageProcessorPil

from pipeline.config.scores import Scores
from pipeline.evaluation.class_means import at_side, check_real, class_means
from pipeline.evaluation.flexit import FlexitJudge
from pipeline.evaluation.measure import Seen
from pipeline.evaluation.region import RegionJudge
from pipeline.evaluation.tasks import BenchmarkError
from pipeline.models.classifier import ImageClassifier
from pipeline.models.scorers import EditToScore, Scorers
from pipeline.storage.store import Store
from tests.committing import SIZE
from tests.samples import encode, pixels

BILINEAR = Image.Resampling.BILINEAR


def test_the_region_is_masked_as_in_pie_bench(section: dict[str, Any]) -> None:
    """LPIPS has the region black in both images, CLIP has everything else black in the edit."""
    scorers = Scorers(
        Scores.model_validate({name: section[name] for name in ("clip", "lpips")}), "cpu", 2
    )
    truth = np.zeros((48, 48), bool)
    truth[10:30, 5:20] = True
    full, before = np.ones((48, 48), bool), pixels(1, 48, 48)
    pairs = [(pixels(2, 48, 48), truth), (pixels(3, 48, 48), full), (pixels(4, 48, 48), None)]
    seen = [Seen({}, "a red dog", before, after, mask, False) for after, mask in pairs]
    seen.append(Seen({}, "a cat", before, before, truth, True))
    local, everywhere, unknown, same = RegionJudge(scorers).edits(seen)

    outside, inside = (before.copy(), pairs[0][0].copy()), pairs[0][0].copy()
    for row, column in itertools.product(range(48), range(48)):
        if truth[row, column]:
            outside[0][row, column] = outside[1][row, column] = 0
        else:
            inside[row, column] = 0
    (kept,) = scorers([outside[0]], [EditToScore(0, outside[1], "", "")])
    (edited,) = scorers([before], [EditToScore(0, inside, "", "a red dog")])
    assert local["lpips_frame_e3"] == pytest.approx(1e3 * kept["lpips"], rel=1e-5)
    assert local["lpips_frame_e3"] > 0
    assert local["clip_edited"] == pytest.approx(
        max(0.0, 100 * edited["clip_text_after"]), rel=1e-5, abs=1e-4
    )
    assert everywhere.keys() == {"clip_edited"}  # no background; the row has the whole image's CLIP
    assert unknown == {}
    assert same["lpips_frame_e3"] == 0.0
    (whole,) = scorers([before], [EditToScore(0, before, "", "a cat")])
    assert same["clip_whole"] == pytest.approx(
        max(0.0, 100 * whole["clip_text_after"]), rel=1e-5, abs=1e-4
    )


def test_images_are_scaled_and_then_cropped() -> None:
    """As in FlexIT: the shorter side is scaled to 256, then the center is cropped."""
    wide = Image.fromarray(pixels(1, 512, 1024))
    scaled = np.asarray(wide.resize((512, 256), BILINEAR))
    assert np.array_equal(at_side(wide), scaled[:, 128:384])
    assert np.array_equal(at_side(scaled[:, 128:384]), scaled[:, 128:384])


def test_flexits_accuracy_chooses_among_the_target_classes(
    section: dict[str, Any], tmp_path: Path
) -> None:
    """The result equals the argmax of the network's own logits, with manual preprocessing."""
    # This preprocessor would scale to 40 pixels; FlexIT uses the network's own size.
    folder = shutil.copytree(section["nsfw"]["path"], tmp_path / "classifier")
    ViTImageProcessorPil(size={"height": 40, "width": 40}).save_pretrained(folder)
    classifier = ImageClassifier(str(folder), "cpu", micro_batch=2)
    images = [pixels(number, SIZE, SIZE) for number in range(6)]
    batch = np.stack(images).transpose(0, 3, 1, 2).astype(np.float32) / 127.5 - 1
    with torch.inference_mode():
        logits = classifier.network(torch.from_numpy(batch)).logits
    assert classifier.side == SIZE
    assert classifier.most_likely(images, [0, 1]) == logits.argmax(1).tolist()
    assert classifier.most_likely(images, [1]) == [1] * 6
    seen = [
        Seen({"source_id": "0", "target_id": "1"}, "", item, item, None, False) for item in images
    ]
    figures = FlexitJudge(classifier=classifier, classes=[0, 1]).edits(seen)
    chosen = [int(of.argmax()) for of in logits]
    assert [item["accuracy_e2"] for item in figures] == [100.0 * number for number in chosen]
    assert [item["unedited_e2"] for item in figures] == [100.0 - 100.0 * n for n in chosen]


def test_flexits_lpips_is_computed_at_256_pixels(section: dict[str, Any]) -> None:
    """Both images are scaled first."""
    scorers = Scorers(Scores.model_validate({"lpips": section["lpips"]}), "cpu", 2)
    before, after = pixels(1, 64, 64), pixels(2, 64, 64)
    (figures,) = FlexitJudge(scorers=scorers).edits([Seen({}, "", before, after, None, False)])
    large = [
        np.asarray(Image.fromarray(image).resize((256, 256), BILINEAR)) for image in (before, after)
    ]
    (wanted,) = scorers([large[0]], [EditToScore(0, large[1], "", "")])
    assert wanted["lpips"] > 0
    assert figures["lpips_e2"] == pytest.approx(100 * wanted["lpips"], rel=1e-5)
    assert figures["lpips_e3"] == pytest.approx(10 * figures["lpips_e2"])


def brightness(images: Sequence[np.ndarray]) -> np.ndarray:
    """A stand-in for a network, with one feature: the mean of the pixels."""
    return np.array([[image.mean()] for image in images])


def test_imagenet_classes_are_numbered_by_sorted_folder(tmp_path: Path) -> None:
    """With all 1,000 folders the sorted order gives the number; otherwise the name does."""
    for number in range(1000):
        (tmp_path / f"real/n{number:08d}").mkdir(parents=True)
    gray = {"n00000007": (10, 20), "n00000160": (100,)}
    for name, levels in gray.items():
        for level in levels:
            image = np.full((20, 30, 3), level, np.uint8)
            (tmp_path / f"real/{name}/{level}.JPEG").write_bytes(encode(image))
    home = Store(str(tmp_path / "home"))
    seen: list[tuple[int, ...]] = []

    def features(images: Sequence[np.ndarray]) -> np.ndarray:
        seen.extend(image.shape for image in images)
        return brightness(images)

    def means(classes: list[str], weights: str = "w") -> dict[str, float]:
        found = class_means(tmp_path / "real", classes, features, weights, home, print)
        return {number: float(mean[0]) for number, mean in found.items()}

    assert means(["7"]) == {"7": 15.0}
    assert seen == [(256, 256, 3)] * 2
    assert means(["7", "160"]) == {"7": 15.0, "160": 100.0}
    assert len(seen) == 3  # the first class was kept
    assert means(["7"], "other weights") == {"7": 15.0}
    assert len(seen) == 5
    with pytest.raises(BenchmarkError, match="n00000008: has no images"):
        check_real(tmp_path / "real", ["8"])
    (tmp_path / "real/n00000999").rmdir()
    with pytest.raises(BenchmarkError, match=r"no folder for class 7; .* \(there are 999\)"):
        check_real(tmp_path / "real", ["7"])
    kept = next((tmp_path / "home").glob("class_means-*"))
    with pytest.raises(BenchmarkError, match="has no mean of class 3"):
        check_real(kept, ["7", "3"])
