"""The decode stage: guidance, blending with the background, and decoding to pixels."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from pipeline.models.loading import LatentDiffusion
from pipeline.records.part import Status
from tests.parts import (
    decoded_latents,
    encoded_part,
    make_config,
    make_part,
    make_prepared,
    required,
    run_stages,
)
from tests.reference import ddim as reference


def test_masked_decoding_agrees_with_the_paper(tiny_model: LatentDiffusion) -> None:
    """Guided DDIM with a blend at each level equals the float64 reference."""
    config = make_config(steps=20, guidance_scale=3.0)
    part = encoded_part(tiny_model, config, make_prepared(0, "a cat"))
    (sample,) = part.samples
    trajectory = required(sample.trajectory).astype(np.float64)
    mask = required(sample.edits[0].mask).astype(np.float64)
    levels = tiny_model.schedule.levels(20, 0.8)

    def predict(x: np.ndarray, k: int, text: str) -> np.ndarray:
        latent = torch.from_numpy(x)[None].float()
        condition = tiny_model.text.encode([text])
        return tiny_model.denoiser(latent, levels[k], condition)[0].double().numpy()

    def network(x: np.ndarray, k: int) -> np.ndarray:
        return reference.guidance(predict(x, k, "a cat"), predict(x, k, ""), 3.0)

    a = np.array([level.alpha**2 for level in levels])
    with torch.inference_mode():
        theirs = reference.masked_decode(network, list(trajectory), a, mask)
    ours = decoded_latents(tiny_model, part, config)[0].numpy()
    assert np.abs(ours - theirs).max() / np.abs(theirs).max() < 2e-5
    assert 0.0 < mask.mean() < 1.0


def test_background_ends_as_the_clean_latent(tiny_model: LatentDiffusion) -> None:
    """Outside the mask the decoded latent equals the clean one, bit for bit; inside it differs."""
    config = make_config()
    part = encoded_part(tiny_model, config, make_prepared(0, "a cat"), make_prepared(1, "photo"))
    clean = np.stack([required(sample.latent) for sample in part.samples])
    masks = np.stack([required(edit.mask) for edit in part.edits])
    latents = decoded_latents(tiny_model, part, config).numpy().swapaxes(0, 1)
    clean = clean.swapaxes(0, 1)
    np.testing.assert_array_equal(latents[:, masks == 0], clean[:, masks == 0])
    assert np.abs(latents[:, masks == 1] - clean[:, masks == 1]).max() > 0.1


def test_encode_then_decode_returns_the_input(tiny_model: LatentDiffusion) -> None:
    """With the empty text and no guidance, the error decreases with more steps."""
    errors = []
    for steps in (12, 25, 50):
        config = make_config(steps=steps, guidance_scale=1.0, mask={"source": "full"})
        part = encoded_part(tiny_model, config, make_prepared(0, ""))
        clean = required(part.samples[0].latent)
        latent = decoded_latents(tiny_model, part, config)[0].numpy()
        errors.append(float(np.sqrt(np.mean((latent - clean) ** 2)) / clean.std()))
    assert errors[0] > 1.5 * errors[1] > 2.25 * errors[2], errors


@pytest.mark.parametrize(("batch", "index"), [(1, 0), (1, 2), (3, 0), (3, 1), (8, 1), (8, 2)])
def test_edit_ignores_batch_neighbors(
    tiny_model: LatentDiffusion, index: int, batch: int, tolerance: dict
) -> None:
    """Among different neighbors, at any index, an edit's latent is the same up to rounding."""
    config = make_config(steps=3)
    alone = decoded_latents(
        tiny_model, encoded_part(tiny_model, config, make_prepared(0, "a cat")), config
    )
    crowd = [make_prepared(10 * index + n, "a blue square") for n in (1, 2)]
    crowd.insert(index, make_prepared(0, "a cat"))
    model = tiny_model.with_micro_batch(batch)
    among = decoded_latents(model, encoded_part(model, config, *crowd), config)[index]
    assert float((among - alone[0]).abs().max() / alone.abs().max()) < tolerance[torch.float32]


def test_samples_own_guidance_and_ratio_are_used(tiny_model: LatentDiffusion) -> None:
    """A sample with its own settings has the result of a run with these settings."""
    own = make_prepared(0, "a cat")
    own.settings = {"encode_ratio": 0.4, "guidance_scale": 1.0}
    together = run_stages(tiny_model, make_part(own, make_prepared(1, "photo")), make_config())
    alone = run_stages(
        tiny_model,
        make_part(make_prepared(0, "a cat")),
        make_config(encode_ratio=0.4, guidance_scale=1.0),
    )
    difference = required(together.edits[0].image).astype(int) - required(alone.edits[0].image)
    assert np.abs(difference).max() <= 1
    assert [edit.num_evals_decode for edit in together.edits] == [2, 8]


def test_stage_sets_pixels_and_drops_latents(tiny_model: LatentDiffusion) -> None:
    """Edits get uint8 images; latents and trajectories, which later steps do not need, are gone."""
    part = run_stages(
        tiny_model, make_part(make_prepared(0), make_prepared(1, "a dog")), make_config()
    )
    edited, unchanged = part.edits
    image = required(edited.image)
    assert (image.dtype, image.shape) == (np.dtype(np.uint8), (32, 32, 3))
    assert edited.pending
    assert unchanged.image is None
    assert all(p.latent is None and p.trajectory is None for p in part.samples)
    assert part.device == "cpu"


def test_long_edit_text_is_noted_once(tiny_model: LatentDiffusion) -> None:
    """A text of more than 77 tokens is truncated with one note, with and without mask inference."""
    for source in ("infer", "full"):
        config = make_config(mask={"source": source, "num_noises": 2})
        part = run_stages(tiny_model, make_part(make_prepared(0, "cat " * 100)), config)
        assert part.edits[0].notes == ["edit text cut at 77 of 102 tokens"]


def test_values_that_are_not_finite_fail_their_edit(tiny_model: LatentDiffusion) -> None:
    """An edit whose latent is not finite fails with the reason; its neighbor is decoded."""
    config = make_config(mask={"source": "full"})
    part = encoded_part(tiny_model, config, make_prepared(0), make_prepared(1))
    required(part.samples[0].trajectory)[-1, 0, 0, 0] = np.inf
    run_stages(tiny_model, part, config, ["decode"])
    broken, whole = part.edits
    assert (broken.status, broken.stage, broken.error) == (Status.FAILED, "decode", "NonFinite")
    assert broken.image is None
    assert whole.image is not None


def test_image_that_overflows_in_the_vae_fails_alone(
    tiny_model: LatentDiffusion, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An edit fails if its image is not finite, as can happen with a VAE in half precision."""
    vae = tiny_model.image_coder.vae
    plain = vae.decode

    def decode(latent: torch.Tensor, return_dict: bool) -> tuple[torch.Tensor]:
        images = plain(latent, return_dict=return_dict)[0].clone()
        images[0, 0, 3, 3] = float("nan")
        return (images,)

    config = make_config()
    part = encoded_part(tiny_model, config, make_prepared(0), make_prepared(1))
    monkeypatch.setattr(vae, "decode", decode)
    run_stages(tiny_model, part, config, ["decode"])
    broken, kept = (sample.edits[0] for sample in part.samples)
    assert (broken.status, broken.stage, broken.error) == (Status.FAILED, "decode", "NonFinite")
    assert kept.image is not None
    with pytest.raises(ValueError, match="not finite"):
        tiny_model.image_coder.decode(torch.zeros(1, 4, 8, 8))
