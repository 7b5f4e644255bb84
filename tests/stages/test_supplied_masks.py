"""The mean_ratio rule, compared with its origin: diffusers' own DiffEdit pipeline."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from diffusers import StableDiffusionDiffEditPipeline

from pipeline.models.loading import LatentDiffusion
from pipeline.records.seeds import noise_seed
from tests.parts import make_config, make_part, make_prepared, required, run_stages

NUM_NOISES = 10


@pytest.fixture(scope="module")
def pipeline(tiny_model: LatentDiffusion) -> StableDiffusionDiffEditPipeline:
    """The deprecated pipeline for the same folder, with one bug of diffusers 0.42 fixed.

    Its generate_mask swaps encode_prompt's two results. With guidance this gives another factor,
    which the rescaling removes; without guidance it raises a TypeError.
    """
    pipeline = StableDiffusionDiffEditPipeline.from_pretrained(
        tiny_model.info.folder, safety_checker=None, requires_safety_checker=False
    )
    pipeline.set_progress_bar_config(disable=True)
    encode_prompt = pipeline.encode_prompt
    pipeline.encode_prompt = lambda *args, **options: encode_prompt(*args, **options)[::-1]
    return pipeline


@pytest.mark.parametrize("guidance_scale", [1.0, 7.5])
@pytest.mark.parametrize("ratio", [1.0, 1.5, 2.0, 2.5, 3.0])
def test_mean_ratio_equals_diffusers(
    tiny_model: LatentDiffusion,
    pipeline: StableDiffusionDiffEditPipeline,
    ratio: float,
    guidance_scale: float,
) -> None:
    """With the same image and noises, masks are equal cell by cell, for low and high thresholds.

    diffusers' threshold is half of ``ratio`` means, ours is ``threshold`` times three means. Its
    guidance takes 4 n evaluations and only scales the map; we need n for each text.
    """
    mask = {
        "rule": "mean_ratio",
        "threshold": ratio / 6.0,
        "num_noises": NUM_NOISES,
        "noise_level": 0.481,
        "floor": 0.0,  # diffusers' 50 % of 50 steps is timestep 481
    }
    part = make_part(make_prepared(0, "a cat", caption="a dog"))
    (sample,) = run_stages(tiny_model, part, make_config(mask=mask), ["mask"]).samples
    seed = noise_seed(0, "shard", "k0", "mask")
    theirs = pipeline.generate_mask(
        torch.from_numpy(required(sample.latent))[None],
        target_prompt="a cat",
        source_prompt="a dog",
        num_maps_per_mask=NUM_NOISES,
        mask_encode_strength=0.5,
        mask_thresholding_ratio=ratio,
        num_inference_steps=50,
        guidance_scale=guidance_scale,
        generator=torch.Generator().manual_seed(seed),
        output_type="np",
    )[0]
    assert 0.0 < theirs.mean() < 1.0
    np.testing.assert_array_equal(required(sample.edits[0].mask), theirs)
    assert sample.edits[0].num_evals_mask == 2 * NUM_NOISES
