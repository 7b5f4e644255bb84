"""Encoding and decoding with the bundled model: the error of the recovered latent."""

from __future__ import annotations

import copy
from itertools import pairwise

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from pipeline.config.config import Config
from pipeline.demo.editor import load_demo_model
from pipeline.demo.world import paint, sample_scene
from pipeline.models.loading import LatentDiffusion
from pipeline.records.part import Edit, Part, Sample
from tests.parts import decoded_latents, make_config, required, run_stages

NUM_IMAGES = 24


@pytest.fixture(scope="module")
def model() -> LatentDiffusion:
    return load_demo_model(threads=torch.get_num_threads())


@pytest.fixture(scope="module")
def masked(model: LatentDiffusion) -> Part:
    """Held-out images with full masks and the empty text as their edit text."""
    samples = [
        Sample(
            key=str(number),
            caption="",
            image=paint(sample_scene(5, "heldout", number)),
            edits=[Edit(0, "")],
        )
        for number in range(NUM_IMAGES)
    ]
    return run_stages(model, Part("heldout", 0, 1, samples), plain(50), ["mask"])


def plain(steps: int) -> Config:
    """A configuration with r = 0.8, without mask and guidance."""
    return make_config(steps=steps, encode_ratio=0.8, guidance_scale=1.0, mask={"source": "full"})


def rmse(model: LatentDiffusion, masked: Part, steps: int) -> NDArray[np.floating]:
    """(N,): the error of each image's recovered latent, in standard deviations of all latents."""
    part = copy.deepcopy(masked)
    config = plain(steps)
    clean = np.stack([required(sample.latent) for sample in part.samples])
    run_stages(model, part, config, ["encode"])
    latents = decoded_latents(model, part, config).numpy()
    return np.sqrt(np.mean((latents - clean) ** 2, axis=(1, 2, 3))) / clean.std()


@pytest.mark.parametrize(
    "steps", [(12, 25, 50), pytest.param((12, 25, 50, 100), marks=pytest.mark.sweep)]
)
def test_ddim_error_halves_with_twice_the_steps(
    steps: tuple[int, ...], model: LatentDiffusion, masked: Part
) -> None:
    """The error is at most 0.10 at 50 steps, and each doubling divides it by 1.6 to 2.4.

    Errors are averaged by geometric means. With few steps one image in eight becomes another image
    (with an error of 0.3 to 0.6 instead of 0.05), and other means would mostly count these images.
    At 50 steps they are rare.
    """
    errors = [rmse(model, masked, number) for number in steps]
    typical = [float(np.exp(np.log(each).mean())) for each in errors]
    assert typical[2] <= 0.10, typical
    ratios = [coarse / fine for coarse, fine in pairwise(typical)]
    assert all(1.6 <= ratio <= 2.4 for ratio in ratios), (typical, ratios)
    assert np.mean(errors[2] <= 0.10) >= 0.9, errors[2]
    assert all(error.max() <= 0.10 for error in errors[3:]), errors[3:]
