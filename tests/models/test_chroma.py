"""Chroma equals its own pipeline: texts, masks and decode; what it refuses."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import (
    AutoencoderKL,
    ChromaPipeline,
    ChromaTransformer2DModel,
    FlowMatchEulerDiscreteScheduler,
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
from tests.tiny_models import shaken, tiny_t5, vae_settings


def make_tiny_chroma(folder: Path) -> Path:
    """Writes a Chroma folder with random weights: 16 x 8 x 8 latents of 32 x 32 images."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        tokenizer, encoder = tiny_t5(40)
        encoder.get_input_embeddings().weight.data.mul_(20.0)
        transformer = ChromaTransformer2DModel(
            num_layers=1,
            num_single_layers=1,
            attention_head_dim=16,
            num_attention_heads=2,
            joint_attention_dim=40,
            axes_dims_rope=(4, 6, 6),
            approximator_num_channels=16,
            approximator_hidden_dim=32,
            approximator_layers=1,
        )
        vae = AutoencoderKL(**vae_settings(latent_channels=16, shift_factor=0.1))
    ChromaPipeline(
        scheduler=FlowMatchEulerDiscreteScheduler(),
        vae=vae,
        text_encoder=encoder,
        tokenizer=tokenizer,
        transformer=shaken(transformer),
    ).save_pretrained(folder, safe_serialization=True)
    return folder


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> Any:
    return loaded(make_tiny_chroma(tmp_path_factory.mktemp("chroma") / "model"))


def test_texts_are_those_of_the_pipeline(both: tuple[Any, Any]) -> None:
    """Tokens and masks bit for bit; one token of padding is seen; a long text is noted."""
    model, pipeline = both
    with torch.inference_mode():
        tokens, _, mask, *_ = pipeline.encode_prompt(TEXTS, do_classifier_free_guidance=False)
        condition = model.text.encode(TEXTS)
    assert torch.equal(condition.tokens, tokens)
    assert torch.equal(condition.mask, mask.bool())
    assert condition.mask[1].sum() == 2  # the empty text's end, and one token of padding
    assert "cut at 512 of" in model.text.truncation_note("caption", TEXTS[3])


@pytest.mark.parametrize("scale", [1.0, 5.0])
def test_a_decode_is_that_of_the_pipeline(both: tuple[Any, Any], scale: float) -> None:
    """From the same noise, with its own scheduler and guidance."""
    check_decode(*both, scale, is_packed=True, guidance_scale=scale)


def test_it_is_described(both: tuple[Any, Any]) -> None:
    """Sizes are those of its configs; a size between patches is refused."""
    path = str(both[0].info.folder)
    info = probe_model(Model(path=path, size=SIDE))
    assert (info.family, info.prediction_type, info.native_size) == ("chroma", "flow", 512)
    with pytest.raises(ValueError, match=r"model\.size=36: .*multiples of 8"):
        probe_model(Model(path=path, size=36))


def test_flash_cannot_be_inverted(both: tuple[Any, Any], tmp_path: Path) -> None:
    """It is distilled to few steps, and recognised by its name."""
    folder = tmp_path / "Chroma1-Flash"
    folder.symlink_to(both[0].info.folder, target_is_directory=True)
    info = probe_model(Model(path=str(folder), size=SIDE))
    with pytest.raises(ValueError, match=r"flash.*cannot be inverted; allowed is.*sdedit"):
        check_suits(info, make_config())
    check_suits(info, make_config(name="sdedit", guidance_scale=1))
