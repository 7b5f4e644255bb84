"""AuraFlow equals its own pipeline: texts and decode; how it is described."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import (
    AuraFlowPipeline,
    AuraFlowTransformer2DModel,
    AutoencoderKL,
    FlowMatchEulerDiscreteScheduler,
)
from transformers import UMT5Config, UMT5EncoderModel

from pipeline.config.model import Model
from pipeline.models.probe import probe_model
from tests.models.family_checks import (
    TEXTS,
    check_decode,
    loaded,
)
from tests.tiny_models import shaken, tiny_t5, vae_settings


def make_tiny_aura_flow(folder: Path) -> Path:
    """Writes an AuraFlow folder with random weights: 4 x 8 x 8 latents of 32 x 32 images."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        tokenizer, other = tiny_t5(40)
        encoder = UMT5EncoderModel(UMT5Config(**other.config.to_diff_dict()))
        encoder.get_input_embeddings().weight.data.mul_(20.0)
        transformer = AuraFlowTransformer2DModel(
            sample_size=8,
            num_mmdit_layers=1,
            num_single_dit_layers=1,
            attention_head_dim=16,
            num_attention_heads=2,
            joint_attention_dim=40,
            caption_projection_dim=32,
            pos_embed_max_size=64,
        )
        vae = AutoencoderKL(**vae_settings(latent_channels=4))
    AuraFlowPipeline(
        scheduler=FlowMatchEulerDiscreteScheduler(shift=1.73),
        vae=vae,
        text_encoder=encoder,
        tokenizer=tokenizer,
        transformer=shaken(transformer),
    ).save_pretrained(folder, safe_serialization=True)
    return folder


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> Any:
    return loaded(make_tiny_aura_flow(tmp_path_factory.mktemp("aura_flow") / "model"))


def test_texts_are_those_of_the_pipeline(both: tuple[Any, Any]) -> None:
    """Tokens bit for bit, zeros where a text has ended; a long text is cut and noted."""
    model, pipeline = both
    with torch.inference_mode():
        tokens, mask, *_ = pipeline.encode_prompt(TEXTS, do_classifier_free_guidance=False)
        condition = model.text.encode(TEXTS)
    assert torch.equal(condition.tokens, tokens)
    assert not condition.tokens[1, 1:].any()
    assert mask is not None
    assert "cut at 256 of" in model.text.truncation_note("caption", TEXTS[3])


@pytest.mark.parametrize("scale", [1.0, 3.5])
def test_a_decode_is_that_of_the_pipeline(both: tuple[Any, Any], scale: float) -> None:
    """From the same noise, with its own scheduler and guidance."""
    check_decode(*both, scale, other=TEXTS[3], guidance_scale=scale)


def test_it_is_described(both: tuple[Any, Any]) -> None:
    """Sizes are those of its configs: 64 positions are a square of 8 patches a side."""
    path = str(both[0].info.folder)
    info = probe_model(Model(path=path))
    assert (info.family, info.prediction_type, info.native_size) == ("aura-flow", "flow", 32)
    assert info.longest == 64
    with pytest.raises(ValueError, match=r"model\.size=72: .*multiples of 8 up to 64"):
        probe_model(Model(path=path, size=72))
