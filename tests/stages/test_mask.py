"""The mask stage: what is masked, what is unchanged, and that neighbours do not matter."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from pipeline.diffusion.masks import cut_mask, relative_difference
from pipeline.diffusion.noise import add_noise, draw_noise
from pipeline.models.loading import LatentDiffusion
from pipeline.records.part import Sample, Status
from pipeline.records.seeds import noise_seed
from tests.parts import make_config, make_part, make_prepared, run_stages

RULES = ["minmax", "mean_ratio", "otsu"]


def masked(model: LatentDiffusion, *samples: Sample, **settings: object) -> list[Sample]:
    config = make_config(mask={"num_noises": 2} | settings)
    return run_stages(model, make_part(*samples), config, ["mask"]).samples


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("edit_text", ["a dog", "A  DOG"])
def test_texts_read_alike_are_unchanged(
    tiny_model: LatentDiffusion, rule: str, edit_text: str
) -> None:
    """Texts with the same tokens give exactly no difference, whatever the rule and the floor."""
    for floor in (0.0, 0.02):
        (sample,) = masked(tiny_model, make_prepared(0, edit_text), rule=rule, floor=floor)
        (edit,) = sample.edits
        assert (edit.status, edit.stage) == (Status.UNCHANGED, "mask")
        assert edit.message == "the model does not distinguish the two texts: nothing to edit"
        assert not edit.mask.any()
        assert not edit.difference.any()


def test_texts_that_differ_beyond_the_models_length_are_unchanged(
    tiny_model: LatentDiffusion,
) -> None:
    """What is cut off cannot make a difference, and the row says that it was cut."""
    long = "a dog " * 60
    (sample,) = masked(tiny_model, make_prepared(0, long + "cat", caption=long + "dog"))
    (edit,) = sample.edits
    assert edit.status is Status.UNCHANGED
    assert edit.notes == ["caption cut at 77 of 123 tokens", "edit text cut at 77 of 123 tokens"]


def test_mask_follows_from_its_parts(tiny_model: LatentDiffusion) -> None:
    """The stage's mask is the maths' mask of the noise that the seed names, at timestep 500."""
    (sample,) = masked(tiny_model, make_prepared(3, "a cat"), num_noises=10)
    latent = tiny_model.image_coder.encode([sample.image])[0]
    noises = draw_noise(noise_seed(0, "shard", "k3", "mask"), (10, 4, 8, 8))
    level = tiny_model.schedule.level_at(0.5)
    noisy = add_noise(latent, noises, level)
    source, target = (
        tiny_model.denoiser(noisy, level, tiny_model.text.encode([text] * 10))
        for text in ("a dog", "a cat")
    )
    mask, values = cut_mask(relative_difference(source, target))
    np.testing.assert_array_equal(sample.edits[0].mask, mask.numpy())
    np.testing.assert_allclose(sample.edits[0].difference, values.numpy(), atol=1e-5)
    np.testing.assert_array_equal(sample.latent, latent.numpy())
    assert 0.0 < mask.mean() < 1.0


@pytest.mark.parametrize("place", [0, 1, 2])
@pytest.mark.parametrize("batch", [1, 3, 8])
def test_mask_ignores_batch_neighbours(tiny_model: LatentDiffusion, place: int, batch: int) -> None:
    """Among other images, at any place and in any batch, an image's masks are the same."""
    texts = ("a cat", "a red dog")
    (alone,) = masked(tiny_model, make_prepared(0, *texts))
    others = [make_prepared(10 * place + n, "a blue square", "photo") for n in (1, 2)]
    others.insert(place, make_prepared(0, *texts))
    crowd = masked(tiny_model.with_micro_batch(batch), *others)
    for mine, theirs in zip(alone.edits, crowd[place].edits, strict=True):
        np.testing.assert_array_equal(mine.mask, theirs.mask)
        np.testing.assert_allclose(mine.difference, theirs.difference, atol=1e-4)


def test_noise_level_may_be_several(tiny_model: LatentDiffusion) -> None:
    """Two levels cost twice, and their map is neither the one's nor the other's."""
    maps = []
    for level in (0.3, 0.6, [0.3, 0.6]):
        (sample,) = masked(tiny_model, make_prepared(0), noise_level=level)
        maps.append(sample.edits[0].difference)
    assert sample.edits[0].num_evals_mask == 8
    assert all(np.abs(maps[2] - one).max() > 1e-3 for one in maps[:2])


def test_reference_may_be_the_empty_text(tiny_model: LatentDiffusion) -> None:
    """With reference: empty the caption is not read: an edit text that equals it is an edit."""
    (sample,) = masked(tiny_model, make_prepared(0, "a dog"), reference="empty")
    assert sample.edits[0].pending
    assert sample.edits[0].mask.any()


def test_supplied_mask_wins(tiny_model: LatentDiffusion) -> None:
    """Whatever the source, a supplied mask is the mask, and no evaluation is spent."""
    for source in ("infer", "full"):
        sample = make_prepared(0, "a dog")
        sample.supplied_mask = np.zeros((32, 32), np.uint8)
        sample.supplied_mask[:16, 8:] = 255
        masked(tiny_model, sample, source=source)
        (edit,) = sample.edits
        expected = np.zeros((8, 8), np.float32)
        expected[:4, 2:] = 1.0
        np.testing.assert_array_equal(edit.mask, expected)
        assert (edit.pending, edit.num_evals_mask) == (True, 0)


@pytest.mark.parametrize(("value", "words"), [(0, "supplied mask is empty"), (1, "1 of 255")])
def test_supplied_mask_that_edits_no_cell_is_unchanged(
    tiny_model: LatentDiffusion, value: int, words: str
) -> None:
    """The row says why: no white pixel, or classes 0 and 1 where "empty" would be no help."""
    sample = make_prepared(0)
    sample.supplied_mask = np.full((32, 32), value, np.uint8)
    masked(tiny_model, sample)
    assert sample.edits[0].status is Status.UNCHANGED
    assert "supplied mask" in sample.edits[0].message
    assert words in sample.edits[0].message


def test_full_mask_edits_everything(tiny_model: LatentDiffusion) -> None:
    """source: full is a mask of ones, without an evaluation."""
    (sample,) = masked(tiny_model, make_prepared(0), source="full")
    assert sample.edits[0].mask.min() == 1.0
    assert sample.edits[0].num_evals_mask == 0


def test_own_seed_and_key_decide_the_noise(tiny_model: LatentDiffusion) -> None:
    """A sample's seed changes its map; equal images under two keys have two maps."""
    same, seeded, renamed = make_prepared(0), make_prepared(0), make_prepared(0)
    seeded.settings = {"seed": 1}
    renamed.key = "other"
    first, *others = masked(tiny_model, same, seeded, renamed)
    for other in others:
        assert np.abs(first.edits[0].difference - other.edits[0].difference).max() > 1e-3


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        *(("encode_ratio", 0), ("encode_ratio", 1.5), ("strength", "much")),
        *(("guidance_scale", 0.5), ("guidance_scale", None)),
        *(("seed", -1), ("seed", 1.5), ("seed", True)),
    ],
)
def test_own_setting_out_of_range_fails_its_image_alone(
    tiny_model: LatentDiffusion, setting: str, value: object
) -> None:
    """The row names the key and the value; the neighbour is edited."""
    bad, good = make_prepared(0, "a cat", "photo"), make_prepared(1)
    bad.settings = {setting: value}
    masked(tiny_model, bad, good)
    assert [edit.status for edit in bad.edits] == [Status.FAILED] * 2
    assert f"{setting}={value!r}" in (bad.edits[0].message or "")
    assert good.edits[0].pending


def test_failed_images_are_left_alone(tiny_model: LatentDiffusion) -> None:
    """An image that failed before has no pixels; a part of such images alone passes through."""
    failed = make_prepared(0)
    failed.image = None
    failed.fail("prepare", "BadPicture", "cut short")
    masked(tiny_model, failed)
    assert failed.latent is None
    masked(tiny_model, failed, make_prepared(1))
    assert failed.edits[0].stage == "prepare"


def test_values_that_are_not_finite_fail_their_edit(tiny_model: LatentDiffusion) -> None:
    """A network that answers with NaN for one text fails that edit, not its neighbours."""

    def broken(latent, level, condition):  # type: ignore[no-untyped-def]
        eps = tiny_model.denoiser(latent, level, condition)
        cat = tiny_model.text.encode(["a cat"]).tokens[0]
        eps[[bool((row == cat).all()) for row in condition[:].tokens]] = float("nan")
        return eps

    model = replace(tiny_model, denoiser=broken)
    (sample,) = masked(model, make_prepared(0, "a cat", "photo"))
    assert (sample.edits[0].status, sample.edits[0].error) == (Status.FAILED, "NonFinite")
    assert sample.edits[1].pending


def test_image_whose_latent_is_not_finite_fails_alone(tiny_model: LatentDiffusion) -> None:
    """It reaches no network, and its neighbour is masked."""

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
