"""The scorers with tiny random weights: they match references and ignore batch neighbors."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pytest
import torch
from transformers import CLIPModel, ViTForImageClassification, ViTModel

from pipeline.config.scores import COMPUTED_BY, Scores
from pipeline.models.embeddings import clip_scores
from pipeline.models.micro_batch import MicroBatch
from pipeline.models.score_weights import ScorerFiles
from pipeline.models.scorers import EditToScore, Scorers, _processor
from tests.reference import scores as reference
from tests.samples import pixels
from tests.tiny_scorers import WIDTH, aesthetic_weights, make_tiny_scorers

TEXTS = ["a red circle", "a blue dog", "a cat on a square", "green"]


@pytest.fixture(scope="module")
def section(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return make_tiny_scorers(tmp_path_factory.mktemp("scorers"))


@pytest.fixture(scope="module")
def scorers(section: dict[str, Any]) -> Scorers:
    return Scorers(Scores.model_validate(section), "cpu", 2)


def image(number: int) -> np.ndarray:
    return pixels(number, 48, 48)


def edit_of(image_number: int, number: int) -> EditToScore:
    return EditToScore(image_number, image(number), TEXTS[number % 4], TEXTS[(number + 1) % 4])


BEFORE = [image(100), image(101)]
EDITS = [edit_of(0, 1), edit_of(0, 2), edit_of(1, 3)]


def test_every_configured_score_is_computed(scorers: Scorers) -> None:
    """All scores of ``COMPUTED_BY`` are finite and differ between edits."""
    found = scorers(BEFORE, EDITS)
    assert {name for names in COMPUTED_BY.values() for name in names} == set(found[0])
    for name in found[0]:
        values = [scores[name] for scores in found]
        assert np.isfinite(values).all()
        assert len(set(values)) == 3, name


def test_code_beside_a_processor_is_neither_run_nor_asked_about(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """transformers would ask on the terminal, and one "y" would run the folder's own code."""
    ran = tmp_path / "ran"
    asked = mock.Mock(return_value="y")
    auto_map = {"AutoImageProcessor": "evil.Evil"}
    config = {"image_processor_type": "Evil", "auto_map": auto_map}
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(config))
    (tmp_path / "evil.py").write_text(f"open({str(ran)!r}, 'w').close()\nclass Evil: pass\n")
    monkeypatch.setattr("builtins.input", asked)
    with pytest.raises(ValueError, match="trust_remote_code"):
        _processor(ScorerFiles(tmp_path, (), "r"))
    asked.assert_not_called()
    assert not ran.exists()


def test_scores_ignore_neighbors_and_micro_batch(scorers: Scorers, section: dict[str, Any]) -> None:
    """Scores are equal up to rounding alone, among others at every index, and in larger batches."""
    together = scorers(BEFORE, EDITS)
    others = [edit_of(1, 7), edit_of(1, 8)]
    for index, edit in enumerate(EDITS):
        (alone,) = scorers(
            [BEFORE[edit.image]], [EditToScore(0, edit.after, edit.caption, edit.edit_text)]
        )
        moved = scorers(BEFORE, [*others[:index], edit, *others[index:]])[min(index, 2)]
        for name, value in together[index].items():
            assert alone[name] == pytest.approx(value, rel=1e-4, abs=1e-5), name
            assert moved[name] == pytest.approx(value, rel=1e-4, abs=1e-5), name
    many = Scorers(Scores.model_validate(section), "cpu", 32)(BEFORE, EDITS)
    for few, more in zip(together, many, strict=True):
        assert few == pytest.approx(more, rel=1e-4, abs=1e-5)


def test_clip_scores_agree_with_the_definition(section: dict[str, Any], scorers: Scorers) -> None:
    """The four scores equal a float64 computation from the network's projected features."""
    network = CLIPModel.from_pretrained(section["clip"]["path"])
    assert scorers.clip is not None
    with torch.inference_mode():

        def image(pixels: np.ndarray) -> np.ndarray:
            prepared = scorers.clip.prepared([pixels])  # type: ignore[union-attr]
            return network.get_image_features(prepared).pooler_output[0].numpy()

        def text(words: str) -> np.ndarray:
            ids = scorers.clip.tokenizer(words, return_tensors="pt")  # type: ignore[union-attr]
            return network.get_text_features(**ids).pooler_output[0].numpy()

        expected = [
            reference.clip(
                image(BEFORE[edit.image]),
                image(edit.after),
                text(edit.caption),
                text(edit.edit_text),
            )
            for edit in EDITS
        ]
    for scores, wanted in zip(scorers(BEFORE, EDITS), expected, strict=True):
        assert {name: scores[name] for name in wanted} == pytest.approx(wanted, abs=1e-5)


def test_seeded_features_agree_with_the_definition() -> None:
    """The formula is right for features of length 1; two equal texts have no direction."""
    generator = torch.Generator().manual_seed(0)
    features = torch.nn.functional.normalize(torch.randn(4, 5, 16, generator=generator), dim=2)
    found = clip_scores(*features)
    for row in range(5):
        wanted = reference.clip(*features[:, row].numpy())
        assert {name: float(found[name][row]) for name in wanted} == pytest.approx(wanted, abs=1e-5)
    before, after, caption, _ = features
    assert clip_scores(before, after, caption, caption)["clip_directional"].tolist() == [0.0] * 5


def test_structure_distance_agrees_with_the_definition(
    section: dict[str, Any], scorers: Scorers
) -> None:
    """The distance equals a computation from the layer's keys, made of its input states."""
    network = ViTModel.from_pretrained(section["dino"]["path"])
    assert scorers.dino is not None
    layer = network.layers[2]

    @torch.inference_mode()
    def keys(image: np.ndarray) -> np.ndarray:
        prepared = scorers.dino._prepared([image])  # type: ignore[union-attr]
        states = network(prepared, output_hidden_states=True).hidden_states[2]
        return layer.attention.k_proj(layer.layernorm_before(states))[0].numpy()

    for edit, scores in zip(EDITS, scorers(BEFORE, EDITS), strict=True):
        wanted = reference.structure_distance(keys(BEFORE[edit.image]), keys(edit.after))
        assert scores["dino_structure"] == pytest.approx(wanted, abs=1e-5)


def test_unchanged_image_has_distance_zero_and_similarity_one(scorers: Scorers) -> None:
    """Distances are 0, similarities of images are 1, and the directional score is 0."""
    (scores,) = scorers([BEFORE[0]], [EditToScore(0, BEFORE[0], TEXTS[0], TEXTS[1])])
    assert scores["lpips"] == 0
    assert scores["dino_structure"] == pytest.approx(0, abs=1e-9)
    assert scores["clip_image"] == pytest.approx(1, abs=1e-5)
    assert scores["dinov2_image"] == pytest.approx(1, abs=1e-5)
    assert scores["clip_directional"] == pytest.approx(0, abs=1e-3)


def test_aesthetic_head_applies_its_linear_layers_in_order(scorers: Scorers) -> None:
    """Layer 10 comes after layer 0, without activation, on features of length 1."""
    assert scorers.clip is not None
    with torch.inference_mode():
        features = scorers.clip.images([edit.after for edit in EDITS]).double()
    assert features.shape == (3, WIDTH)
    weights = {name: tensor.double() for name, tensor in aesthetic_weights().items()}
    hidden = features @ weights["layers.0.weight"].T + weights["layers.0.bias"]
    wanted = (hidden @ weights["layers.10.weight"].T + weights["layers.10.bias"])[:, 0]
    found = [scores["aesthetic"] for scores in scorers(BEFORE, EDITS)]
    assert found == pytest.approx(wanted.tolist(), rel=1e-5)


def test_nsfw_is_the_probability_of_the_label(section: dict[str, Any], scorers: Scorers) -> None:
    """The score equals the classifier's softmax for the configured label."""
    network = ViTForImageClassification.from_pretrained(section["nsfw"]["path"])
    assert scorers.nsfw is not None
    with torch.inference_mode():
        logits = network(scorers.nsfw.prepared([edit.after for edit in EDITS])).logits
    found = [scores["nsfw"] for scores in scorers(BEFORE, EDITS)]
    assert found == pytest.approx(logits.softmax(1)[:, 1].tolist(), abs=1e-6)


def test_image_before_is_encoded_once_for_all_its_edits(scorers: Scorers, monkeypatch: Any) -> None:
    """Two images with three edits give two calls of CLIP, with two and three images."""
    seen: list[int] = []
    assert scorers.clip is not None
    encode = scorers.clip.images

    def recording(images: list[np.ndarray]) -> torch.Tensor:
        seen.append(len(images))
        return encode(images)

    monkeypatch.setattr(scorers.clip, "images", recording)
    scorers(BEFORE, EDITS)
    assert sorted(seen) == [2, 3]


def test_only_configured_scorers_are_loaded(section: dict[str, Any]) -> None:
    """A configuration with LPIPS only gives one score."""
    scorers = Scorers(Scores.model_validate({"lpips": section["lpips"]}), "cpu", 2)
    assert [set(scores) for scores in scorers(BEFORE, EDITS)] == [{"lpips"}] * 3
    assert isinstance(scorers.micro_batch, MicroBatch)
    assert Path(section["lpips"]["path"]).is_file()
