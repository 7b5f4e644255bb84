"""What holds for each newer family: inversion, background, and its image-to-image pipeline.

Stable Diffusion 1.5, SDXL and 3 have the same tests in ``tests/stages``.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import pytest
import torch
from torch import Tensor, nn

from pipeline.config.config import Model
from pipeline.config.lora import Lora
from pipeline.config.stages import Stage
from pipeline.diffusion.denoiser import Condition
from pipeline.diffusion.schedule import Level
from pipeline.models.families import all_families, family_named
from pipeline.models.family import Family
from pipeline.models.loading import LatentDiffusion, load_model
from pipeline.records.seeds import noise_seed
from tests.models.family_checks import RELATIVE, SIDE, difference
from tests.models.test_added import diffusers_file, factors_of
from tests.models.test_aura_flow import make_tiny_aura_flow
from tests.models.test_chroma import make_tiny_chroma
from tests.models.test_flux_1 import make_tiny_flux
from tests.models.test_flux_2_klein import make_tiny_klein
from tests.models.test_lumina2 import make_tiny_lumina2
from tests.models.test_pixart_sigma import make_tiny_pixart
from tests.models.test_qwen_image import make_tiny_qwen_image
from tests.models.test_sana import make_tiny_sana
from tests.models.test_z_image import make_tiny_z_image
from tests.parts import (
    decoded_latents,
    encoded_part,
    make_config,
    make_part,
    make_prepared,
    required,
    run_stages,
)

SCALE = 4.0  # of guidance


@dataclass(frozen=True)
class Case:
    """A family's tiny model, and its image-to-image pipeline where diffusers has one.

    Attributes:
        make: writes the model.
        image_to_image: the pipeline's class.
        call: what it is asked besides; how it is asked for guidance of ``SCALE``.
        is_packed: whether its latents are tokens of 2 x 2 cells.
    """

    make: Callable[[Path], Path]
    image_to_image: str | None = None
    call: dict[str, Any] = field(default_factory=lambda: {"guidance_scale": SCALE})
    is_packed: bool = False


CASES = {
    "z-image": Case(make_tiny_z_image, "ZImageImg2ImgPipeline", {"guidance_scale": SCALE - 1}),
    "flux.1": Case(make_tiny_flux, "FluxImg2ImgPipeline", is_packed=True),
    "flux.2-klein": Case(make_tiny_klein),
    "pixart-sigma": Case(make_tiny_pixart),
    "qwen-image": Case(
        make_tiny_qwen_image,
        "QwenImageImg2ImgPipeline",
        {"negative_prompt": "", "true_cfg_scale": SCALE},
        is_packed=True,
    ),
    "chroma": Case(make_tiny_chroma, "ChromaImg2ImgPipeline", is_packed=True),
    "lumina2": Case(make_tiny_lumina2),
    "aura-flow": Case(make_tiny_aura_flow),
    "sana": Case(make_tiny_sana),
}

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
def model(case: Case, tmp_path_factory: pytest.TempPathFactory) -> LatentDiffusion:
    folder = case.make(tmp_path_factory.mktemp("family") / "model")
    return load_model(Model(path=str(folder), size=SIDE), "cpu", Stage())


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
    steps = 50
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
