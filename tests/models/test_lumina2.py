"""Lumina2 equals its own pipeline: texts, masks and decode; what it refuses."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import (
    AutoencoderKL,
    FlowMatchEulerDiscreteScheduler,
    Lumina2Pipeline,
    Lumina2Transformer2DModel,
)

from pipeline.config.model import Model
from pipeline.models.probe import probe_model
from pipeline.models.suitability import check_suits
from tests.models.family_checks import (
    SIDE,
    TEXTS,
    check_decode,
    loaded,
)
from tests.parts import make_config
from tests.tiny_models import shaken, tiny_gemma2, vae_settings


def make_tiny_lumina2(folder: Path, **schedule: Any) -> Path:
    """Writes a Lumina2 folder with random weights: 16 x 8 x 8 latents of 32 x 32 images."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        tokenizer, encoder = tiny_gemma2()
        transformer = Lumina2Transformer2DModel(
            sample_size=8,
            hidden_size=32,
            num_layers=1,
            num_refiner_layers=1,
            num_attention_heads=2,
            num_kv_heads=2,
            multiple_of=16,
            axes_dim_rope=(4, 6, 6),
            axes_lens=(300, 64, 64),
            cap_feat_dim=32,
        )
        vae = AutoencoderKL(**vae_settings(latent_channels=16, shift_factor=0.1))
    Lumina2Pipeline(
        scheduler=FlowMatchEulerDiscreteScheduler(shift=6.0, **schedule),
        vae=vae,
        text_encoder=encoder,
        tokenizer=tokenizer,
        transformer=shaken(transformer),
    ).save_pretrained(folder, safe_serialization=True)
    return folder


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> Any:
    return loaded(make_tiny_lumina2(tmp_path_factory.mktemp("lumina2") / "model"))


def test_texts_are_those_of_the_pipeline(both: tuple[Any, Any]) -> None:
    """Tokens and masks bit for bit: a text after its instruction, the unconditional one bare."""
    model, pipeline = both
    texts = [text for text in TEXTS if text]
    with torch.inference_mode():
        tokens, mask, bare, bare_mask = pipeline.encode_prompt(texts)
        condition, empty = model.text.encode(texts), model.text.encode([""])
    assert torch.equal(condition.tokens, tokens)
    assert torch.equal(condition.mask, mask.bool())
    torch.testing.assert_close(empty.tokens, bare[:1], rtol=1e-5, atol=1e-5)
    assert torch.equal(empty.mask, bare_mask[:1].bool())
    assert not torch.equal(mask[:1], bare_mask[:1])
    assert "cut at 256 of" in model.text.truncation_note("caption", TEXTS[3])


@pytest.mark.parametrize("scale", [1.0, 4.0])
def test_a_decode_is_that_of_the_pipeline(both: tuple[Any, Any], scale: float) -> None:
    """From the same noise, with its own scheduler, and guidance that keeps the norm."""
    check_decode(*both, scale, guidance_scale=scale)


def test_what_it_cannot_do_is_refused(both: tuple[Any, Any], tmp_path: Path) -> None:
    """A negative text, which would need another encoding, a shift by size, a size too large."""
    path = str(both[0].info.folder)
    info = probe_model(Model(path=path, size=SIDE))
    assert (info.family, info.prediction_type, info.native_size) == ("lumina2", "flow", 32)
    assert info.longest == 64 * 8
    with pytest.raises(ValueError, match=r"negative_text='fog': not supported for lumina2"):
        check_suits(info, make_config(negative_text="fog"))
    folder = make_tiny_lumina2(tmp_path / "model", use_dynamic_shifting=True)
    with pytest.raises(ValueError, match=r"use_dynamic_shifting=True .*not supported for lumina2"):
        probe_model(Model(path=str(folder), size=SIDE))
