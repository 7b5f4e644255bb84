"""FLUX.1 equals its own pipeline: texts, decode with embedded guidance; what it refuses."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import (
    AutoencoderKL,
    FlowMatchEulerDiscreteScheduler,
    FluxPipeline,
    FluxTransformer2DModel,
)
from torch import Tensor
from transformers import CLIPTextModel

from pipeline.config.model import Model
from pipeline.models.probe import probe_model
from pipeline.models.suitability import check_suits
from pipeline.records.part import Status
from pipeline.sizing.costs import evaluations
from tests.models.family_checks import (
    RELATIVE,
    SIDE,
    STEPS,
    TEXTS,
    check_half,
    check_vae,
    decoded,
    difference,
    loaded,
    start_of,
)
from tests.parts import counted, make_config, make_part, make_prepared, run_stages
from tests.tiny_models import shaken, tiny_clip_config, tiny_t5, tiny_tokenizer, vae_settings

# Of dev: the shift follows the number of tokens.
DYNAMIC = {"use_dynamic_shifting": True, "base_shift": 0.5, "max_shift": 1.15, "shift": 3.0}


def make_tiny_flux(folder: Path, *, dev: bool = True) -> Path:
    """Writes a FLUX.1 folder with random weights: dev, or schnell, which has no guidance."""
    tokenizer = tiny_tokenizer()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        clip = CLIPTextModel(tiny_clip_config(len(tokenizer)))
        t5_tokenizer, t5 = tiny_t5(40)
        for encoder in (clip, t5):
            encoder.get_input_embeddings().weight.data.mul_(20.0)
        transformer = FluxTransformer2DModel(
            in_channels=64,
            num_layers=1,
            num_single_layers=1,
            attention_head_dim=16,
            num_attention_heads=2,
            joint_attention_dim=40,
            pooled_projection_dim=32,
            guidance_embeds=dev,
            axes_dims_rope=(4, 6, 6),
        )
        shaken(transformer)
        vae = AutoencoderKL(**vae_settings(latent_channels=16, shift_factor=0.1))
    FluxPipeline(
        scheduler=FlowMatchEulerDiscreteScheduler(**(DYNAMIC if dev else {})),
        vae=vae,
        text_encoder=clip,
        tokenizer=tokenizer,
        text_encoder_2=t5,
        tokenizer_2=t5_tokenizer,
        transformer=transformer,
    ).save_pretrained(folder, safe_serialization=True)
    return folder


@pytest.fixture(scope="module", params=["dev", "schnell"])
def both(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Any:
    folder = tmp_path_factory.mktemp("flux") / "model"
    return loaded(make_tiny_flux(folder, dev=request.param == "dev"))


def test_texts_are_those_of_the_pipeline(both: tuple[Any, Any]) -> None:
    """Tokens and pooled embeddings bit for bit; CLIP cuts a text earlier than T5."""
    model, pipeline = both
    with torch.inference_mode():
        tokens, pooled, _ = pipeline.encode_prompt(list(TEXTS))
        condition = model.text.encode(TEXTS)
    assert torch.equal(condition.tokens, tokens)
    assert torch.equal(condition.pooled, pooled)
    note = model.text.truncation_note("caption", TEXTS[3])
    assert "at 77 of 602 tokens by text_encoder;" in note
    assert "at 512 of 601 tokens by text_encoder_2" in note


def unpacked(latents: Tensor) -> Tensor:
    return FluxPipeline._unpack_latents(latents, SIDE, SIDE, 4)


@pytest.mark.parametrize("scale", [1.0, 3.5])
def test_a_decode_is_that_of_the_pipeline(both: tuple[Any, Any], scale: float) -> None:
    """From the same noise, with its own scheduler and its own form of guidance."""
    model, pipeline = both
    noise, _ = start_of(model)

    def theirs(scale: float) -> Tensor:
        return unpacked(
            pipeline(
                "a red dog",
                height=SIDE,
                width=SIDE,
                latents=pipeline._pack_latents(noise, *noise.shape),
                num_inference_steps=STEPS,
                guidance_scale=scale,
                output_type="latent",
            ).images
        )

    wanted = theirs(scale)
    assert difference(decoded(model, "a red dog", scale), wanted) <= RELATIVE
    assert difference(decoded(model, "a cat", scale), wanted) > 0.01  # so that texts are compared
    if pipeline.transformer.config.guidance_embeds:
        assert difference(theirs(6.0), wanted) > 0.01  # so that guidance is


@pytest.mark.parametrize("both", ["schnell"], indirect=True, scope="module")
def test_schnell_is_as_exact(both: tuple[Any, Any], tolerance: dict) -> None:
    """Its VAE and its half precision; dev is a case of ``test_every_family.py``."""
    check_vae(*both)
    check_half(both[0], tolerance[torch.bfloat16])


def test_guidance_costs_no_second_evaluation(both: tuple[Any, Any]) -> None:
    """DiffEdit; equal texts give an empty mask and an unchanged image."""
    model, _ = both
    settings = {"steps": 4, "guidance_scale": 3.5, "mask": {"num_noises": 2, "floor": 0.0}}
    config = make_config(**settings, encode_ratio=1.0)
    part = make_part(make_prepared(0, "a cat", "a dog"))
    part = run_stages(model, part, config, ["mask", "encode"])
    with counted(model) as rows:
        part = run_stages(model, part, config, ["decode"])
    assert [edit.status for edit in part.edits] == [None, Status.UNCHANGED]
    assert sum(rows) == part.samples[0].edits[0].num_evals_decode == 4
    assert evaluations(config.method, guidance_is_embedded=True)["decode"] == 4
    assert evaluations(config.method)["decode"] == 8


def test_what_it_cannot_do_is_refused(tmp_path: Path) -> None:
    """A negative text, inversion of schnell, another number of channels, a size between patches."""
    folder = make_tiny_flux(tmp_path / "FLUX.1-schnell", dev=False)
    info = probe_model(Model(path=str(folder), size=SIDE))
    assert (info.family, info.prediction_type, info.native_size) == ("flux.1", "flow", 512)
    with pytest.raises(ValueError, match=r"schnell.*cannot be inverted; allowed is.*sdedit"):
        check_suits(info, make_config())
    check_suits(info, make_config(name="sdedit", guidance_scale=1))
    with pytest.raises(ValueError, match=r"negative_text='fog': does nothing with flux\.1"):
        check_suits(info, make_config(name="sdedit", negative_text="fog"))
    with pytest.raises(ValueError, match=r"model\.size=36: .*multiples of 8"):
        probe_model(Model(path=str(folder), size=36))
    config = folder / "transformer/config.json"
    config.write_text(config.read_text().replace('"in_channels": 64', '"in_channels": 384'))
    with pytest.raises(ValueError, match="takes 384 channels"):
        probe_model(Model(path=str(folder), size=SIDE))
