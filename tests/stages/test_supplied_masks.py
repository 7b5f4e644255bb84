"""The mean_ratio rule beside the code that it comes from: diffusers' own DiffEdit."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from diffusers import StableDiffusionDiffEditPipeline

from pipeline.models.loading import LatentDiffusion
from pipeline.records.seeds import noise_seed
from tests.parts import make_config, make_part, make_prepared, run_stages

NUM_NOISES = 10


@pytest.fixture(scope="module")
def pipeline(tiny_model: LatentDiffusion) -> StableDiffusionDiffEditPipeline:
    """The deprecated pipeline over the same folder, with one fault of diffusers 0.42 mended.

    Its generate_mask takes encode_prompt's two results for each other. With guidance that leaves a
    factor of its own, which the rescaling removes; without guidance it is a TypeError.
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
    """One image, the same noises: the same mask cell by cell, at cuts from low to high.

    diffusers cuts at half of ``ratio`` means, we at ``threshold`` of three means. Its guidance
    costs 4 n evaluations and scales the map; ours makes do with n of each text.
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
        torch.from_numpy(sample.latent)[None],
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
    np.testing.assert_array_equal(sample.edits[0].mask, theirs)
    assert sample.edits[0].num_evals_mask == 2 * NUM_NOISES
