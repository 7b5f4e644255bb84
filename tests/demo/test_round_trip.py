"""Encode then decode on the bundled model: how close the latent comes back to what it was."""

from __future__ import annotations

import copy
from itertools import pairwise

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from pipeline.demo.editor import load_demo_model
from pipeline.demo.world import paint, sample_scene
from pipeline.models.loading import LatentDiffusion
from pipeline.records.part import Edit, Part, Sample
from tests.parts import decoded_latents, make_config, run_stages

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


def plain(steps: int):  # type: ignore[no-untyped-def]
    """r = 0.8, no mask, no guidance."""
    return make_config(steps=steps, encode_ratio=0.8, guidance_scale=1.0, mask={"source": "full"})


def rmse(model: LatentDiffusion, masked: Part, steps: int) -> NDArray[np.floating]:
    """Of each image's latent that comes back, in standard deviations of all latents: (N,)."""
    part = copy.deepcopy(masked)
    config = plain(steps)
    clean = np.stack([sample.latent for sample in part.samples])
    run_stages(model, part, config, ["encode"])
    latents = decoded_latents(model, part, config).numpy()
    return np.sqrt(np.mean((latents - clean) ** 2, axis=(1, 2, 3))) / clean.std()


@pytest.mark.parametrize(
    "steps", [(12, 25, 50), pytest.param((12, 25, 50, 100), marks=pytest.mark.sweep)]
)
def test_ddim_comes_back_by_half_with_twice_the_steps(
    steps: tuple[int, ...], model: LatentDiffusion, masked: Part
) -> None:
    """At most 0.10 at 50 steps, and of first order: each doubling divides it by 1.6 to 2.4.

    Geometric means. With few steps an image in eight ends in another one (an error of 0.3 to 0.6,
    not 0.05), and any other mean would tell of nothing but how many do. At 50 steps that is rare.
    """
    errors = [rmse(model, masked, number) for number in steps]
    typical = [float(np.exp(np.log(each).mean())) for each in errors]
    assert typical[2] <= 0.10, typical
    ratios = [coarse / fine for coarse, fine in pairwise(typical)]
    assert all(1.6 <= ratio <= 2.4 for ratio in ratios), (typical, ratios)
    assert np.mean(errors[2] <= 0.10) >= 0.9, errors[2]
    assert all(error.max() <= 0.10 for error in errors[3:]), errors[3:]
