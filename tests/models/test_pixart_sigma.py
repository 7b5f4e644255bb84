"""PixArt-Sigma equals its own pipeline: texts, masks and decode; how it is described."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import AutoencoderKL, DDIMScheduler, PixArtSigmaPipeline, PixArtTransformer2DModel
from safetensors.torch import save_file

from pipeline.config.lora import Lora
from pipeline.config.model import Model
from pipeline.models.probe import probe_model
from tests.models.family_checks import (
    TEXTS,
    check_decode,
    loaded,
)
from tests.tiny_models import BETAS, shaken, tiny_t5, vae_settings


def make_tiny_pixart(folder: Path) -> Path:
    """Writes a PixArt-Sigma folder with random weights: 4 x 8 x 8 latents of 32 x 32 images."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        tokenizer, encoder = tiny_t5(40)
        encoder.get_input_embeddings().weight.data.mul_(20.0)
        transformer = PixArtTransformer2DModel(
            num_attention_heads=2,
            attention_head_dim=16,
            num_layers=1,
            cross_attention_dim=32,
            sample_size=8,
            caption_channels=40,
            use_additional_conditions=False,
        )
        shaken(transformer, 0.03)
        vae = AutoencoderKL(**vae_settings(latent_channels=4))
    PixArtSigmaPipeline(
        scheduler=DDIMScheduler(**BETAS, clip_sample=False, set_alpha_to_one=False),
        vae=vae,
        text_encoder=encoder,
        tokenizer=tokenizer,
        transformer=transformer,
    ).save_pretrained(folder, safe_serialization=True)
    return folder


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> Any:
    return loaded(make_tiny_pixart(tmp_path_factory.mktemp("pixart") / "model"))


def test_texts_are_those_of_the_pipeline(both: tuple[Any, Any]) -> None:
    """Tokens and masks bit for bit; case does not matter; a long text is cut and noted."""
    model, pipeline = both
    with torch.inference_mode():
        tokens, mask, _, _ = pipeline.encode_prompt(TEXTS, do_classifier_free_guidance=False)
        condition = model.text.encode(TEXTS)
    assert torch.equal(condition.tokens, tokens)
    assert torch.equal(condition.mask, mask.bool())
    assert model.text.token_ids("A Cat ") == model.text.token_ids("a cat")
    assert "cut at 300 of" in model.text.truncation_note("caption", TEXTS[3])


@pytest.mark.parametrize("scale", [1.0, 4.5])
def test_a_decode_is_that_of_the_pipeline(both: tuple[Any, Any], scale: float) -> None:
    """From the same noise, with its own scheduler and guidance."""
    check_decode(*both, scale, guidance_scale=scale, use_resolution_binning=False)


def test_it_is_described(both: tuple[Any, Any], tmp_path: Path) -> None:
    """Sizes are those of its configs, and follow its patches; LoRAs are refused at the start."""
    path = str(both[0].info.folder)
    info = probe_model(Model(path=path))
    assert (info.family, info.prediction_type, info.native_size) == ("pixart-sigma", "epsilon", 32)
    with pytest.raises(ValueError, match=r"model\.size=36: .*multiples of 8"):
        probe_model(Model(path=path, size=36))
    save_file({"x": torch.zeros(1)}, tmp_path / "style.safetensors")
    lora = Lora(path=str(tmp_path / "style.safetensors"))
    with pytest.raises(ValueError, match=r"model\.lora: not supported for pixart-sigma; allowed"):
        probe_model(Model(path=path, lora=[lora]))
