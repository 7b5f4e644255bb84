"""SANA equals its own pipeline: texts and masks, grid, decode; what it refuses."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import (
    AutoencoderDC,
    DPMSolverMultistepScheduler,
    SanaPipeline,
    SanaTransformer2DModel,
)
from torch import Tensor

from pipeline.config.model import Model
from pipeline.diffusion.ddim import ddim
from pipeline.diffusion.dpmpp import dpmpp_2m
from pipeline.diffusion.flow_solver_schedule import FlowSolverSchedule
from pipeline.models.families.sana import instruction
from pipeline.models.probe import probe_model
from pipeline.models.suitability import check_suits
from tests.models.family_checks import (
    TEXTS,
    check_decode,
    loaded,
)
from tests.parts import make_config
from tests.tiny_models import shaken, tiny_gemma2

FLOW = {"prediction_type": "flow_prediction", "use_flow_sigmas": True, "flow_shift": 3.0}


def make_tiny_sana(folder: Path, **schedule: Any) -> Path:
    """Writes a SANA folder with random weights: 8 x 8 x 8 latents of 32 x 32 images."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        tokenizer, encoder = tiny_gemma2()
        transformer = SanaTransformer2DModel(
            in_channels=8,
            out_channels=8,
            num_attention_heads=2,
            attention_head_dim=16,
            num_layers=1,
            num_cross_attention_heads=2,
            cross_attention_head_dim=16,
            cross_attention_dim=32,
            caption_channels=32,
            sample_size=8,
        )
        vae = AutoencoderDC(
            latent_channels=8,
            attention_head_dim=8,
            encoder_block_out_channels=(8, 8, 16),
            decoder_block_out_channels=(8, 8, 16),
            encoder_layers_per_block=(1, 1, 1),
            decoder_layers_per_block=(1, 1, 1),
            encoder_qkv_multiscales=((), (), (5,)),
            decoder_qkv_multiscales=((), (), (5,)),
            encoder_block_types=("ResBlock", "ResBlock", "EfficientViTBlock"),
            decoder_block_types=("ResBlock", "ResBlock", "EfficientViTBlock"),
            scaling_factor=0.4,
        )
    SanaPipeline(
        scheduler=DPMSolverMultistepScheduler(**(FLOW | schedule)),
        vae=vae,
        text_encoder=encoder,
        tokenizer=tokenizer,
        transformer=shaken(transformer),
    ).save_pretrained(folder, safe_serialization=True)
    return folder


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> Any:
    return loaded(make_tiny_sana(tmp_path_factory.mktemp("sana") / "model"))


def test_texts_are_those_of_the_pipeline(both: tuple[Any, Any]) -> None:
    """Tokens and masks: a text after the instruction of its call, the unconditional one bare."""
    model, pipeline = both
    texts = [text for text in TEXTS if text]
    with torch.inference_mode():
        for text, bare in zip([*texts, ""], [False] * len(texts) + [True], strict=True):
            lines = None if bare else instruction()
            tokens, mask, *_ = pipeline.encode_prompt(
                text, do_classifier_free_guidance=False, complex_human_instruction=lines
            )
            condition = model.text.encode([text])
            assert torch.equal(condition.tokens, tokens)
            assert torch.equal(condition.mask, mask.bool())
    assert model.text.token_ids("A Cat ") == model.text.token_ids("a cat")
    most = model.text.towers[0].max_tokens
    assert f"cut at {most} of" in model.text.truncation_note("caption", TEXTS[3])
    start = "a" * (300 - 2)  # of the 300 tokens of a text the first is the whole's first
    assert model.text.token_ids(start + "b") == model.text.token_ids(start + "c")
    assert model.text.token_ids(start[1:] + "b") != model.text.token_ids(start[1:] + "c")


@pytest.mark.parametrize("steps", [1, 20, 50])
def test_the_grid_is_that_of_its_scheduler(steps: int) -> None:
    """It starts one timestep below pure noise, and timesteps are whole numbers."""
    scheduler = DPMSolverMultistepScheduler(**FLOW)
    scheduler.set_timesteps(steps)
    levels = FlowSolverSchedule.from_solver(dict(scheduler.config)).levels(steps)[::-1]
    found = torch.tensor([level.sigma for level in levels])
    torch.testing.assert_close(found, scheduler.sigmas, rtol=1e-5, atol=1e-6)
    assert [level.timestep for level in levels[:-1]] == scheduler.timesteps.tolist()


@pytest.mark.parametrize("order", [1, 2])
@pytest.mark.parametrize("scale", [1.0, 4.5])
def test_a_decode_is_that_of_the_pipeline(both: tuple[Any, Any], scale: float, order: int) -> None:
    """From the same noise, with its own scheduler: first order is DDIM, second is its default."""
    model, pipeline = both
    pipeline.scheduler = DPMSolverMultistepScheduler(**FLOW, solver_order=order)
    solver = ddim if order == 1 else dpmpp_2m
    call: dict[str, Any] = {"guidance_scale": scale, "use_resolution_binning": False}
    check_decode(model, pipeline, scale, solver=solver, **call)


def sana_latents(pipeline: Any, encoded: Tensor) -> Tensor:
    """Scale only."""
    return encoded * pipeline.vae.config.scaling_factor


def test_what_it_cannot_do_is_refused(both: tuple[Any, Any], tmp_path: Path) -> None:
    """A negative text, which would need another encoding, and other schedulers' settings."""
    info = probe_model(Model(path=str(both[0].info.folder)))
    assert (info.family, info.prediction_type, info.native_size) == ("sana", "flow", 32)
    assert (info.latent_scale, info.latent_channels) == (4, 8)
    with pytest.raises(ValueError, match=r"negative_text='fog': not supported for sana"):
        check_suits(info, make_config(negative_text="fog"))
    for number, (key, value, message) in enumerate(
        (
            (
                "use_flow_sigmas",
                False,
                "use_flow_sigmas=False in the scheduler's config: allowed is True",
            ),
            ("final_sigmas_type", "sigma_min", "final_sigmas_type='sigma_min' in the scheduler's"),
        )
    ):
        folder = make_tiny_sana(tmp_path / str(number), **{key: value})
        with pytest.raises(ValueError, match=message):
            probe_model(Model(path=str(folder)))
