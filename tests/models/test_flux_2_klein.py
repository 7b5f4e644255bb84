"""FLUX.2 klein equals its own pipeline: texts, schedule, decode; what it refuses."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import (
    AutoencoderKLFlux2,
    FlowMatchEulerDiscreteScheduler,
    Flux2KleinPipeline,
    Flux2Transformer2DModel,
)
from torch import Tensor
from transformers import Qwen3ForCausalLM

from pipeline.config.model import Model
from pipeline.models.probe import probe_model
from pipeline.models.suitability import check_suits
from tests.models.family_checks import (
    RELATIVE,
    SIDE,
    STEPS,
    TEXTS,
    decoded,
    difference,
    loaded,
    start_of,
)
from tests.parts import make_config
from tests.tiny_models import shaken, tiny_qwen3, vae_settings


def make_tiny_klein(folder: Path, **index: Any) -> Path:
    """Writes a klein folder with random weights: 32 x 4 x 4 latents of 32 x 32 images."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        tokenizer, encoder = tiny_qwen3(Qwen3ForCausalLM, layers=27)
        transformer = Flux2Transformer2DModel(
            in_channels=32,
            num_layers=1,
            num_single_layers=1,
            attention_head_dim=16,
            num_attention_heads=2,
            joint_attention_dim=96,
            timestep_guidance_channels=32,
            axes_dims_rope=(4, 4, 4, 4),
            guidance_embeds=False,
        )
        shaken(transformer)
        settings = vae_settings(latent_channels=8)
        del settings["scaling_factor"]
        vae = AutoencoderKLFlux2(**settings)
        vae.bn.running_mean.normal_()
        vae.bn.running_var.uniform_(0.5, 2.0)
    Flux2KleinPipeline(
        scheduler=FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True),
        vae=vae,
        text_encoder=encoder,
        tokenizer=tokenizer,
        transformer=transformer,
        **index,
    ).save_pretrained(folder, safe_serialization=True)
    return folder


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> Any:
    return loaded(make_tiny_klein(tmp_path_factory.mktemp("klein") / "model"))


def test_texts_are_those_of_the_pipeline(both: tuple[Any, Any]) -> None:
    """Tokens bit for bit; a long text is cut and noted."""
    model, pipeline = both
    with torch.inference_mode():
        tokens, _ = pipeline.encode_prompt(list(TEXTS))
        condition = model.text.encode(TEXTS)
    assert torch.equal(condition.tokens, tokens)
    assert "cut at 512 of" in model.text.truncation_note("caption", TEXTS[3])


@pytest.mark.parametrize("steps", [4, 28, 50])
@pytest.mark.parametrize("size", [512, 1024, 1536])
def test_the_shift_follows_tokens_and_steps(both: tuple[Any, Any], size: int, steps: int) -> None:
    """Levels are those of the scheduler with the pipeline's own formula."""
    from diffusers.pipelines.flux2.pipeline_flux2_klein import compute_empirical_mu

    side = size // 16
    scheduler = FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True)
    grid = torch.linspace(1.0, 1.0 / steps, steps, dtype=torch.float64).tolist()
    scheduler.set_timesteps(sigmas=grid, mu=compute_empirical_mu(side**2, steps))
    family, config = both[0].unbatched.family, dict(scheduler.config)
    schedule = family.schedule(config, (64, 64), 1).for_grid(side, side)
    found = [level.timestep for level in schedule.levels(steps)[:0:-1]]
    torch.testing.assert_close(torch.tensor(found), scheduler.timesteps, rtol=1e-5, atol=1e-3)


def klein_latents(pipeline: Any, mode: Tensor) -> Tensor:
    """Patches, with the statistics of the VAE's batch norm."""
    bn = pipeline.vae.bn
    mean, variance = (one.view(1, -1, 1, 1) for one in (bn.running_mean, bn.running_var))
    return (pipeline._patchify_latents(mode) - mean) / (variance + bn.eps).sqrt()


@pytest.mark.parametrize("scale", [1.0, 4.0])
def test_a_decode_is_that_of_the_pipeline(both: tuple[Any, Any], scale: float) -> None:
    """From the same noise, with its own scheduler and guidance."""
    model, pipeline = both
    noise, _ = start_of(model)
    images = pipeline(
        prompt="a red dog",
        height=SIDE,
        width=SIDE,
        latents=noise,
        num_inference_steps=STEPS,
        guidance_scale=scale,
        output_type="latent",
    ).images
    wanted = klein_latents(pipeline, images)
    assert difference(decoded(model, "a red dog", scale), wanted) <= RELATIVE
    assert difference(decoded(model, TEXTS[3], scale), wanted) > 20 * RELATIVE  # so texts matter


def test_what_it_cannot_do_is_refused(tmp_path: Path) -> None:
    """Inversion where the index says that the model is distilled."""
    path = str(make_tiny_klein(tmp_path / "model", is_distilled=True))
    info = probe_model(Model(path=path, size=SIDE))
    assert (info.latent_scale, info.latent_channels, info.native_size) == (8, 32, 512)
    with pytest.raises(ValueError, match=r"is_distilled.*cannot be inverted; allowed is.*sdedit"):
        check_suits(info, make_config())
    check_suits(info, make_config(name="sdedit", guidance_scale=1))
