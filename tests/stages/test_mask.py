"""The mask stage: masks, unchanged edits, failures, and independence of batch neighbors."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from pipeline.diffusion.denoiser import Condition
from pipeline.diffusion.masks import cut_mask, relative_difference
from pipeline.diffusion.noise import add_noise, draw_noise
from pipeline.diffusion.schedule import Level
from pipeline.models.loading import LatentDiffusion
from pipeline.records.part import Sample, Status
from pipeline.records.seeds import noise_seed
from tests.parts import make_config, make_part, make_prepared, required, run_stages

RULES = ["minmax", "mean_ratio", "otsu"]


def masked(model: LatentDiffusion, *samples: Sample, **settings: object) -> list[Sample]:
    config = make_config(mask={"num_noises": 2} | settings)
    return run_stages(model, make_part(*samples), config, ["mask"]).samples


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("edit_text", ["a dog", "A  DOG"])
def test_texts_with_equal_tokens_are_unchanged(
    tiny_model: LatentDiffusion, rule: str, edit_text: str
) -> None:
    """Texts with the same tokens have a difference of exactly 0, for every rule and floor."""
    for floor in (0.0, 0.02):
        (sample,) = masked(tiny_model, make_prepared(0, edit_text), rule=rule, floor=floor)
        (edit,) = sample.edits
        assert (edit.status, edit.stage) == (Status.UNCHANGED, "mask")
        assert edit.message == "the model does not distinguish the two texts: nothing to edit"
        assert not required(edit.mask).any()
        assert not required(edit.difference).any()


def test_texts_that_differ_only_after_truncation_are_unchanged(
    tiny_model: LatentDiffusion,
) -> None:
    """Words beyond the model's length have no effect, and the row notes the truncation."""
    long = "a dog " * 60
    (sample,) = masked(tiny_model, make_prepared(0, long + "cat", caption=long + "dog"))
    (edit,) = sample.edits
    assert edit.status is Status.UNCHANGED
    assert edit.notes == ["caption cut at 77 of 123 tokens", "edit text cut at 77 of 123 tokens"]


def test_mask_equals_a_step_by_step_computation(tiny_model: LatentDiffusion) -> None:
    """The mask is that of ``cut_mask`` for seeded noise at timestep 500."""
    (sample,) = masked(tiny_model, make_prepared(3, "a cat"), num_noises=10)
    latent = tiny_model.image_coder.encode([required(sample.image)])[0]
    noises = draw_noise(noise_seed(0, "shard", "k3", "mask"), (10, 4, 8, 8))
    level = tiny_model.schedule.level_at(0.5)
    noisy = add_noise(latent, noises, level)
    source, target = (
        tiny_model.denoiser(noisy, level, tiny_model.text.encode([text] * 10))
        for text in ("a dog", "a cat")
    )
    mask, values = cut_mask(relative_difference(source, target))
    np.testing.assert_array_equal(required(sample.edits[0].mask), mask.numpy())
    np.testing.assert_allclose(required(sample.edits[0].difference), values.numpy(), atol=1e-5)
    np.testing.assert_array_equal(required(sample.latent), latent.numpy())
    assert 0.0 < mask.mean() < 1.0


@pytest.mark.parametrize("index", [0, 1, 2])
@pytest.mark.parametrize("batch", [1, 3, 8])
def test_mask_ignores_batch_neighbors(tiny_model: LatentDiffusion, index: int, batch: int) -> None:
    """Among other images, at any index and in any batch, an image's masks are the same."""
    texts = ("a cat", "a red dog")
    (alone,) = masked(tiny_model, make_prepared(0, *texts))
    others = [make_prepared(10 * index + n, "a blue square", "photo") for n in (1, 2)]
    others.insert(index, make_prepared(0, *texts))
    crowd = masked(tiny_model.with_micro_batch(batch), *others)
    for ours, theirs in zip(alone.edits, crowd[index].edits, strict=True):
        np.testing.assert_array_equal(required(ours.mask), required(theirs.mask))
        np.testing.assert_allclose(
            required(ours.difference), required(theirs.difference), atol=1e-4
        )


def test_several_noise_levels_are_averaged(tiny_model: LatentDiffusion) -> None:
    """Two noise levels cost twice as much, and their map differs from that of either level."""
    maps = []
    for level in (0.3, 0.6, [0.3, 0.6]):
        (sample,) = masked(tiny_model, make_prepared(0), noise_level=level)
        maps.append(required(sample.edits[0].difference))
    assert sample.edits[0].num_evals_mask == 8
    assert all(np.abs(maps[2] - single).max() > 1e-3 for single in maps[:2])


def test_reference_may_be_the_empty_text(tiny_model: LatentDiffusion) -> None:
    """With reference: empty the caption is ignored, so an edit text that equals it is an edit."""
    (sample,) = masked(tiny_model, make_prepared(0, "a dog"), reference="empty")
    assert sample.edits[0].pending
    assert required(sample.edits[0].mask).any()


def test_supplied_mask_takes_precedence(tiny_model: LatentDiffusion) -> None:
    """A supplied mask is used whatever the source, without network evaluations."""
    for source in ("infer", "full"):
        sample = make_prepared(0, "a dog")
        sample.supplied_mask = np.zeros((32, 32), np.uint8)
        sample.supplied_mask[:16, 8:] = 255
        masked(tiny_model, sample, source=source)
        (edit,) = sample.edits
        expected = np.zeros((8, 8), np.float32)
        expected[:4, 2:] = 1.0
        np.testing.assert_array_equal(required(edit.mask), expected)
        assert (edit.pending, edit.num_evals_mask) == (True, 0)


@pytest.mark.parametrize(("value", "words"), [(0, "supplied mask is empty"), (1, "1 of 255")])
def test_supplied_mask_that_edits_no_cell_is_unchanged(
    tiny_model: LatentDiffusion, value: int, words: str
) -> None:
    """The row says why: the mask is all 0, or its values are 0 and 1 instead of 0 and 255."""
    sample = make_prepared(0)
    sample.supplied_mask = np.full((32, 32), value, np.uint8)
    masked(tiny_model, sample)
    assert sample.edits[0].status is Status.UNCHANGED
    assert "supplied mask" in required(sample.edits[0].message)
    assert words in required(sample.edits[0].message)


def test_full_mask_edits_everything(tiny_model: LatentDiffusion) -> None:
    """source: full gives a mask of ones, without network evaluations."""
    (sample,) = masked(tiny_model, make_prepared(0), source="full")
    assert required(sample.edits[0].mask).min() == 1.0
    assert sample.edits[0].num_evals_mask == 0


def test_noise_depends_on_the_samples_seed_and_key(tiny_model: LatentDiffusion) -> None:
    """Equal images with different seeds or keys have different maps."""
    same, seeded, renamed = make_prepared(0), make_prepared(0), make_prepared(0)
    seeded.settings = {"seed": 1}
    renamed.key = "other"
    first, *others = (
        required(sample.edits[0].difference) for sample in masked(tiny_model, same, seeded, renamed)
    )
    for other in others:
        assert np.abs(first - other).max() > 1e-3


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        *(("encode_ratio", 0), ("encode_ratio", 1.5), ("strength", "much")),
        *(("guidance_scale", 0.5), ("guidance_scale", "7.5")),
        *(("seed", -1), ("seed", 1.5), ("seed", True)),
    ],
)
def test_samples_own_setting_out_of_range_fails_only_this_sample(
    tiny_model: LatentDiffusion, setting: str, value: object
) -> None:
    """The row names the key and the value; the neighbor is edited."""
    bad, good = make_prepared(0, "a cat", "photo"), make_prepared(1)
    bad.settings = {setting: value}
    masked(tiny_model, bad, good)
    assert [edit.status for edit in bad.edits] == [Status.FAILED] * 2
    assert bad.edits[0].error == "BadSettings"
    message = bad.edits[0].message or ""
    assert f"{setting}={value!r}" in message or f"{setting}={json.dumps(value)}" in message
    assert good.edits[0].pending


def test_failed_samples_are_skipped(tiny_model: LatentDiffusion) -> None:
    """Samples that failed before, alone or beside others, keep their failure."""
    failed = make_prepared(0)
    failed.image = None
    failed.fail("prepare", "DamagedImage", "truncated")
    masked(tiny_model, failed)
    assert failed.latent is None
    masked(tiny_model, failed, make_prepared(1))
    assert failed.edits[0].stage == "prepare"


def test_values_that_are_not_finite_fail_their_edit(tiny_model: LatentDiffusion) -> None:
    """If the network returns NaN for one text, that edit fails, but not its neighbors."""

    def broken(latent: torch.Tensor, level: Level, condition: Condition) -> torch.Tensor:
        eps = tiny_model.denoiser(latent, level, condition)
        cat = tiny_model.text.encode(["a cat"]).tokens[0]
        eps[[bool((row == cat).all()) for row in condition[:].tokens]] = float("nan")
        return eps

    model = replace(tiny_model, denoiser=broken)
    (sample,) = masked(model, make_prepared(0, "a cat", "photo"))
    assert (sample.edits[0].status, sample.edits[0].error) == (Status.FAILED, "NonFinite")
    assert sample.edits[1].pending


def test_image_whose_latent_is_not_finite_fails_alone(tiny_model: LatentDiffusion) -> None:
    """The image is not passed to the denoiser, and its neighbor is masked."""

    class Images:
        def encode(self, images: list[np.ndarray]) -> torch.Tensor:
            latents = tiny_model.image_coder.encode(images).clone()
            latents[0, 0, 0, 0] = float("inf")
            return latents

    model = replace(tiny_model, image_coder=Images())  # type: ignore[arg-type]
    part = run_stages(model, make_part(make_prepared(0), make_prepared(1)), make_config(), ["mask"])
    broken, kept = (sample.edits[0] for sample in part.samples)
    assert (broken.status, broken.stage, broken.error) == (Status.FAILED, "mask", "NonFinite")
    assert broken.num_evals_mask == 0
    assert kept.mask is not None
