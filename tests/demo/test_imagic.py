"""Imagic on the bundled model: a short fit of a held-out edit behaves as in the paper."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch

from pipeline.config.method import Method
from pipeline.demo.editor import load_demo_model, masked_part
from pipeline.demo.edits import sample_edit
from pipeline.demo.measures import psnr
from pipeline.demo.world import paint
from pipeline.diffusion.denoiser import Condition
from pipeline.models.loading import LatentDiffusion
from pipeline.records.part import Part
from pipeline.stages.build import stage_class
from pipeline.stages.imagic.fit import ImagicFitStage
from tests.parts import required

EDIT = sample_edit(1, "heldout", 0, kinds=("color",))


def imagic(interp_eta: float = 0.0) -> Method:
    fit = {"embedding_steps": 40, "model_steps": 80, "interp_eta": interp_eta}
    tree = {"name": "imagic", "steps": 10, "guidance_scale": 3.0, "imagic": fit}
    return Method.model_validate(tree)


@pytest.fixture(scope="module")
def model() -> LatentDiffusion:
    return load_demo_model(threads=torch.get_num_threads())


@pytest.fixture(scope="module")
def fitted(model: LatentDiffusion) -> Part:
    """One edit after the encode stage."""
    part = masked_part(model, [EDIT], imagic(), seed=0)
    return ImagicFitStage(model, imagic(), 0)(part)


def test_fitted_embedding_has_a_lower_denoising_loss(model: LatentDiffusion, fitted: Part) -> None:
    """Over draws that the fit has not used, the loss under e_opt is below that under e_tgt."""
    stage, pair = ImagicFitStage(model, imagic(), 0), (fitted.samples[0], fitted.edits[0])
    text = stage._texts([pair])
    losses = []
    for tokens in (text.tokens, torch.from_numpy(required(fitted.edits[0].embedding))[None]):
        loss = stage._loss("shard", [pair], "held out", Condition(tokens, text.pooled))
        with torch.no_grad():
            losses.append(float(torch.stack([loss() for _ in range(10)]).mean()))
    assert losses[1] < 0.8 * losses[0]


def test_interpolation_goes_from_the_image_to_the_text(
    model: LatentDiffusion, fitted: Part
) -> None:
    """interp_eta 0 reconstructs the image better than 1, with the same fit and noise."""
    images = {}
    for interp_eta in (0.0, 1.0):
        decode = stage_class(imagic(interp_eta), "decode")(model, imagic(interp_eta), 0)
        images[interp_eta] = required(decode(copy.deepcopy(fitted)).edits[0].image)
    near, far = (psnr(images[eta], paint(EDIT.source)) for eta in (0.0, 1.0))
    assert near > far + 1.0
    assert not np.array_equal(images[0.0], images[1.0])
