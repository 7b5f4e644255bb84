"""What holds for each newer family: VAE, half precision, inversion, and SDEdit as its pipeline's.

Stable Diffusion 1.5, SDXL and 3 have the same tests in ``tests/stages``.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import pytest
import torch
from torch import Tensor, nn

from pipeline.config.lora import Lora
from pipeline.config.model import Model
from pipeline.config.stages import Stage
from pipeline.diffusion.denoiser import Condition
from pipeline.diffusion.schedule import Level
from pipeline.models.families import all_families, family_named
from pipeline.models.family import Family
from pipeline.models.loading import LatentDiffusion, load_model
from pipeline.records.part import Status
from pipeline.records.seeds import noise_seed
from tests.models.family_cases import CASES, SCALE, Case
from tests.models.family_checks import (
    RELATIVE,
    SIDE,
    check_half,
    check_vae,
    difference,
    loaded,
    start_of,
)
from tests.models.test_added import diffusers_file, factors_of
from tests.parts import (
    decoded_latents,
    encoded_part,
    make_config,
    make_part,
    make_prepared,
    required,
    run_stages,
)

WITH_PIPELINE = [name for name, case in CASES.items() if case.image_to_image]
FITTED = [name for name in CASES if family_named(name).fits_texts]
LORAS = [name for name in CASES if family_named(name).takes_loras]
IMAGIC = {
    "form": "lora",
    "rank": 2,
    "draws": 1,
    "seeds": 1,
    "embedding_steps": 2,
    "model_steps": 2,
    "model_learning_rate": 1e-2,
}


@pytest.fixture(scope="module", params=CASES)
def case(request: pytest.FixtureRequest) -> Case:
    return CASES[request.param]


@pytest.fixture(scope="module")
def both(case: Case, tmp_path_factory: pytest.TempPathFactory) -> tuple[LatentDiffusion, Any]:
    return loaded(case.make(tmp_path_factory.mktemp("family") / "model"))


@pytest.fixture(scope="module")
def model(both: tuple[LatentDiffusion, Any]) -> LatentDiffusion:
    return both[0]


def test_the_vae_is_that_of_the_pipeline(case: Case, both: tuple[LatentDiffusion, Any]) -> None:
    """Scale, shift and statistics, in both directions."""
    check_vae(*both, case.latents_of, is_of_videos=case.is_of_videos)


def test_half_precision_is_close(model: LatentDiffusion, tolerance: dict) -> None:
    """The dtypes of all inputs go together."""
    check_half(model, tolerance[torch.bfloat16])


def test_rows_do_not_mix(model: LatentDiffusion) -> None:
    """A short text beside a long one gives what it gives alone."""
    noise, _ = start_of(model)
    latent = torch.cat([noise, -noise])
    level = model.schedule.level_at(0.5)
    with torch.inference_mode():
        condition = model.text.encode(["a cat", "dog " * 60])
        together = model.denoiser(latent, level, condition)
        alone = model.denoiser(latent[:1], level, condition[:1])
    assert difference(together[:1], alone) < RELATIVE


def test_an_edit_is_made(model: LatentDiffusion) -> None:
    """DiffEdit makes an image; equal texts give an empty mask and an unchanged image."""
    config = make_config(steps=4, guidance_scale=3.0, mask={"num_noises": 2, "floor": 0.0})
    part = run_stages(model, make_part(make_prepared(0, "a cat", "a dog")), config)
    assert [edit.status for edit in part.edits] == [None, Status.UNCHANGED]
    assert part.samples[0].edits[0].image is not None


def test_round_trip_error_falls_with_more_steps(model: LatentDiffusion) -> None:
    """Encoded and decoded with the empty text, 40 steps have less than half the error of 10."""
    errors = []
    for steps in (10, 40):
        config = make_config(steps=steps, guidance_scale=1.0, mask={"source": "full"})
        part = encoded_part(model, config, make_prepared(0, ""))
        clean = torch.from_numpy(required(part.samples[0].latent))[None]
        back = decoded_latents(model, part, config)
        errors.append(float((back - clean).square().mean().sqrt() / clean.std()))
    assert errors[1] < 0.5 * errors[0]


def test_the_background_is_of_each_level(model: LatentDiffusion) -> None:
    """Outside the mask each latent is the encoded one of its level, and the last is the clean."""
    seen: dict[int, Tensor] = {}

    def recording(latent: Tensor, level: Level, condition: Condition) -> Tensor:
        seen[level.index] = latent
        return model.denoiser(latent, level, condition)

    sample = make_prepared(0, "a cat")
    sample.supplied_mask = np.zeros((SIDE, SIDE), np.uint8)
    sample.supplied_mask[:, : SIDE // 2] = 255
    config = make_config(steps=5, guidance_scale=1.0)
    part = encoded_part(model, config, sample)
    (sample,) = part.samples
    trajectory, clean = required(sample.trajectory), required(sample.latent)
    outside = required(sample.edits[0].mask) == 0.0
    latents = decoded_latents(replace(model, denoiser=recording), part, config)
    assert outside.mean() == 0.5
    assert sorted(seen) == [1, 2, 3, 4]
    for index, latent in seen.items():
        assert np.array_equal(latent[0].numpy()[:, outside], trajectory[index][:, outside])
    assert np.array_equal(latents[0].numpy()[:, outside], clean[:, outside])
    assert not np.array_equal(latents[0].numpy()[:, ~outside], clean[:, ~outside])


@pytest.mark.parametrize("case", WITH_PIPELINE, indirect=True, scope="module")
@pytest.mark.parametrize("strength", [0.4, 1.0])
def test_sdedit_is_image_to_image(case: Case, model: LatentDiffusion, strength: float) -> None:
    """The family's own pipeline gives the same latent from the same latent and noise."""
    assert case.image_to_image is not None
    steps = 20
    config = make_config(name="sdedit", steps=steps, strength=strength, guidance_scale=SCALE)
    part = run_stages(model, make_part(make_prepared(0, "a cat")), config, ["mask"])
    latent = torch.from_numpy(required(part.samples[0].latent))[None]
    pipeline = getattr(diffusers, case.image_to_image).from_pretrained(model.info.folder)
    pipeline.set_progress_bar_config(disable=True)
    pipeline.image_processor.register_to_config(vae_latent_channels=latent.shape[1])
    theirs = pipeline(
        "a cat",
        image=latent,
        height=SIDE,
        width=SIDE,
        strength=strength,
        num_inference_steps=steps,
        generator=torch.Generator().manual_seed(noise_seed(0, "shard", "k0", "encode")),
        output_type="latent",
        **case.call,
    ).images
    if case.is_packed:
        theirs = diffusers.FluxPipeline._unpack_latents(theirs, SIDE, SIDE, model.info.latent_scale)
    run_stages(model, part, config, ["encode"])
    assert difference(decoded_latents(model, part, config), theirs) <= RELATIVE


@pytest.mark.parametrize("case", FITTED, indirect=True, scope="module")
def test_imagic_fits_texts_of_one_length(model: LatentDiffusion) -> None:
    """Text and network are fitted, and the fit changes the image."""
    images = []
    for changed in ({}, {"embedding_steps": 0, "model_learning_rate": 1e-9}):
        config = make_config(name="imagic", steps=3, imagic=IMAGIC | changed)
        part = run_stages(model, make_part(make_prepared(0, "a cat")), config)
        images.append(required(part.edits[0].image))
    assert not np.array_equal(images[0], images[1])


@pytest.mark.parametrize("case", LORAS, indirect=True, scope="module")
def test_a_lora_is_fused(model: LatentDiffusion, tmp_path: Path) -> None:
    """W + weight * B A in the projections that it names."""
    path = tmp_path / "style.safetensors"
    weights = {
        f"transformer.{name}.weight": module.weight
        for name, module in model.unbatched.network.named_modules()
        if isinstance(module, nn.Linear) and name.endswith("to_q")
    }
    factors = factors_of({name.removesuffix(".weight"): one for name, one in weights.items()})
    diffusers_file(factors, path)
    entry = Lora(path=str(path), weight=0.5)
    section = Model(path=str(model.info.folder), size=SIDE, lora=[entry])
    fused = load_model(section, "cpu", Stage()).unbatched.network.state_dict()
    assert weights
    for name, weight in weights.items():
        down, up = factors[name.removesuffix(".weight")]
        wanted = weight + 0.5 * (up @ down)
        torch.testing.assert_close(fused[name.removeprefix("transformer.")], wanted)


@pytest.mark.parametrize("family", all_families(), ids=lambda family: family.name)
def test_loras_are_refused_where_diffusers_has_no_loader(family: Family) -> None:
    """Each family says what its pipeline can."""
    pipeline = getattr(diffusers, family.pipelines[0])
    assert family.takes_loras == hasattr(pipeline, "load_lora_weights")
