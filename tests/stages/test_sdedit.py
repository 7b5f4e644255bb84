"""SDEdit: compared with the paper and diffusers' image-to-image; repeats, mask and samplers."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler, StableDiffusionImg2ImgPipeline

from pipeline.config.config import Config
from pipeline.diffusion.noise import draw_noise
from pipeline.models.loading import LatentDiffusion
from pipeline.records.part import Sample
from pipeline.records.seeds import noise_seed
from tests.parts import (
    counted,
    decoded_latents,
    encoded_part,
    make_config,
    make_part,
    make_prepared,
    required,
    run_stages,
)
from tests.reference.ddim import guidance
from tests.reference.sdedit import sdedit


def sdedit_config(**method: object) -> Config:
    return make_config(**{"name": "sdedit", "steps": 8, "strength": 0.5, "mask": {}} | method)


def masked_sample(number: int = 0, *edit_texts: str) -> Sample:
    """A sample with a supplied mask of the left half."""
    sample = make_prepared(number, *edit_texts)
    sample.supplied_mask = np.zeros((32, 32), np.uint8)
    sample.supplied_mask[:, :16] = 255
    return sample


def edited_latents(model: LatentDiffusion, config: Config, *samples: Sample) -> torch.Tensor:
    return decoded_latents(model, encoded_part(model, config, *samples), config)


@pytest.mark.parametrize("strength", [0.3, 0.5, 1.0])
def test_sdedit_equals_image_to_image(tiny_model: LatentDiffusion, strength: float) -> None:
    """diffusers' img2img with DDIM, the same noise and the same latent gives the same result."""
    config = sdedit_config(steps=20, strength=strength, guidance_scale=5.0)
    part = encoded_part(tiny_model, config, make_prepared(0, "a cat"))
    latent = torch.from_numpy(required(part.samples[0].latent))[None]
    pipeline = StableDiffusionImg2ImgPipeline.from_pretrained(tiny_model.info.folder)
    assert isinstance(pipeline.scheduler, DDIMScheduler)
    pipeline.set_progress_bar_config(disable=True)
    seed = noise_seed(0, "shard", "k0", "encode")
    theirs = pipeline(
        "a cat",
        image=latent,
        strength=strength,
        num_inference_steps=20,
        guidance_scale=5.0,
        generator=torch.Generator().manual_seed(seed),
        output_type="latent",
    ).images
    ours = decoded_latents(tiny_model, part, config)
    assert float((ours - theirs).abs().max() / theirs.abs().max()) < 1e-4
    assert part.edits[0].num_evals_encode == 0
    assert part.edits[0].num_evals_decode == 2 * int(20 * strength)


@pytest.mark.parametrize("repeats", [1, 3])
@pytest.mark.parametrize("masked", [False, True])
def test_repeats_and_mask_agree_with_the_paper(
    tiny_model: LatentDiffusion, repeats: int, masked: bool, tolerance: dict
) -> None:
    """K rounds of noise and DDIM with the input's background equal the float64 reference."""
    config = sdedit_config(repeats=repeats, guidance_scale=3.0)
    make = masked_sample if masked else make_prepared
    part = encoded_part(tiny_model, config, make(0, "a cat"))
    (sample,) = part.samples
    purposes = ["encode", "encode 2", "encode 3"][:repeats]
    noises = [draw_noise(noise_seed(0, "shard", "k0", name), (4, 8, 8)) for name in purposes]
    levels = tiny_model.schedule.levels(8, 0.5)

    clean, edit_mask = required(sample.latent), required(sample.edits[0].mask)

    def predict(x: np.ndarray, k: int, text: str) -> np.ndarray:
        latent = torch.from_numpy(x)[None].float()
        condition = tiny_model.text.encode([text])
        return tiny_model.denoiser(latent, levels[k], condition)[0].double().numpy()

    with torch.inference_mode():
        theirs = sdedit(
            lambda x, k: guidance(predict(x, k, "a cat"), predict(x, k, ""), 3.0),
            clean.astype(np.float64),
            [noise.double().numpy() for noise in noises],
            np.array([level.alpha**2 for level in levels]),
            edit_mask.astype(np.float64),
        )
    ours = decoded_latents(tiny_model, part, config)[0].numpy()
    assert np.abs(ours - theirs).max() / np.abs(theirs).max() < tolerance[torch.float32]
    assert edit_mask.mean() == (0.5 if masked else 1.0)
    assert (ours[:, edit_mask == 0] == clean[:, edit_mask == 0]).all()
    assert part.edits[0].num_evals_decode == 2 * 4 * repeats


def test_rows_report_the_number_of_evaluations(tiny_model: LatentDiffusion) -> None:
    """K repeats of 4 guided steps for two edits, counted at the network."""
    part = make_part(make_prepared(0, "a cat", "a red dog"))
    with counted(tiny_model) as rows:
        run_stages(tiny_model, part, sdedit_config(repeats=3))
    assert [edit.num_evals_decode for edit in part.edits] == [24, 24]
    assert sum(rows) == 48


def test_fresh_noise_differs_by_edit_step_and_round(
    tiny_model: LatentDiffusion, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The ancestral sampler draws each noise once, with a seed that depends on all of these."""
    seeds: list[int] = []

    def recording(seed: int, shape: tuple[int, ...]) -> torch.Tensor:
        seeds.append(seed)
        return draw_noise(seed, shape)

    monkeypatch.setattr("pipeline.stages.encode.draw_noise", recording)
    part = make_part(make_prepared(0, "a cat", "a cat"))
    run_stages(tiny_model, part, sdedit_config(ddim_eta=1.0, repeats=2))
    fresh = [
        noise_seed(0, "shard", "k0", f"decode {number} {index}", edit)
        for number in (1, 2)
        for index in range(4)
        for edit in (0, 1)
    ]
    rounds = [noise_seed(0, "shard", "k0", name) for name in ("encode", "encode 2", "encode 2")]
    assert sorted(seeds) == sorted(fresh + rounds)
    assert len(set(fresh)) == 16


def test_ancestral_edits_of_one_image_differ(tiny_model: LatentDiffusion) -> None:
    """Two edits with equal texts differ with ddim_eta 1, and are equal without it."""
    for ddim_eta, least, most in ((0.0, 0.0, 1e-4), (1.0, 0.1, 100.0)):
        config = sdedit_config(ddim_eta=ddim_eta)
        first, second = edited_latents(tiny_model, config, make_prepared(0, "a cat", "a cat"))
        assert least <= float((first - second).abs().max()) <= most


@pytest.mark.parametrize("index", [0, 1, 2])
@pytest.mark.parametrize("batch", [1, 3, 8])
def test_ancestral_edit_ignores_batch_neighbors(
    tiny_model: LatentDiffusion, index: int, batch: int, tolerance: dict
) -> None:
    """With repeats and fresh noise, an edit does not depend on its neighbors."""
    config = sdedit_config(ddim_eta=1.0, repeats=2, steps=4)
    alone = edited_latents(tiny_model, config, masked_sample(0, "a cat"))[0]
    crowd = [make_prepared(10 * index + n, "a blue square") for n in (1, 2)]
    crowd.insert(index, masked_sample(0, "a cat"))
    among = edited_latents(tiny_model.with_micro_batch(batch), config, *crowd)[index]
    assert float((among - alone).abs().max() / alone.abs().max()) < tolerance[torch.float32]


def test_supplied_mask_limits_the_edit(tiny_model: LatentDiffusion) -> None:
    """Without a supplied mask the mask is all ones; with one, it is 1 where the mask is white."""
    part = run_stages(tiny_model, make_part(make_prepared(0), masked_sample(0)), sdedit_config())
    free, masked = part.edits
    assert required(free.mask).min() == 1.0
    assert required(masked.mask)[:, :4].min() == 1.0
    assert required(masked.mask)[:, 4:].max() == 0.0
    assert not np.array_equal(required(free.image), required(masked.image))
