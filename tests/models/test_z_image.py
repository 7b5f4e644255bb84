"""Z-Image equals its own pipeline: texts and decode; what it refuses."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import (
    AutoencoderKL,
    FlowMatchEulerDiscreteScheduler,
    ZImagePipeline,
    ZImageTransformer2DModel,
)
from transformers import Qwen3Model

from pipeline.config.model import Model
from pipeline.models.probe import probe_model
from pipeline.models.suitability import check_suits
from tests.models.family_checks import (
    SIDE,
    TEXTS,
    check_decode,
    loaded,
    same_rows,
)
from tests.parts import make_config
from tests.tiny_models import shaken, tiny_qwen3, vae_settings


def make_tiny_z_image(folder: Path, shift: float = 3.0) -> Path:
    """Writes a Z-Image folder with random weights: 16 x 8 x 8 latents of 32 x 32 images."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        tokenizer, encoder = tiny_qwen3(Qwen3Model)
        transformer = ZImageTransformer2DModel(
            dim=32,
            n_layers=2,
            n_refiner_layers=1,
            n_heads=2,
            n_kv_heads=2,
            cap_feat_dim=32,
            axes_dims=[4, 6, 6],
            axes_lens=[1024, 64, 64],
        )
        shaken(transformer)
        vae = AutoencoderKL(**vae_settings(latent_channels=16, shift_factor=0.1))
    ZImagePipeline(
        scheduler=FlowMatchEulerDiscreteScheduler(shift=shift),
        vae=vae,
        text_encoder=encoder,
        tokenizer=tokenizer,
        transformer=transformer,
    ).save_pretrained(folder, safe_serialization=True)
    return folder


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Any]:
    return loaded(make_tiny_z_image(tmp_path_factory.mktemp("z") / "model"))


def test_texts_are_those_of_the_pipeline(both: tuple[Any, Any]) -> None:
    """Tokens bit for bit, each text with its own length; a long one is cut and noted."""
    model, pipeline = both
    with torch.inference_mode():
        wanted, _ = pipeline.encode_prompt(list(TEXTS), do_classifier_free_guidance=False)
        condition = model.text.encode(TEXTS)
    assert same_rows(condition.rows(), wanted)
    assert len({len(row) for row in wanted}) > 2
    assert "cut at 512 of" in model.text.truncation_note("caption", TEXTS[3])


@pytest.mark.parametrize("scale", [1.0, 5.0])
def test_a_decode_is_that_of_the_pipeline(both: tuple[Any, Any], scale: float) -> None:
    """From the same noise, with its own scheduler; its guidance counts from 0."""
    check_decode(*both, scale, guidance_scale=scale - 1.0)


def test_what_it_cannot_do_is_refused(tmp_path: Path) -> None:
    """Inversion of Turbo, Imagic, boxes and reuse; SDEdit with Turbo is welcome."""
    info = probe_model(Model(path=str(make_tiny_z_image(tmp_path / "Z-Image-Turbo")), size=SIDE))
    assert (info.family, info.prediction_type, info.native_size) == ("z-image", "flow", 512)
    with pytest.raises(ValueError, match=r"turbo.*cannot be inverted; allowed is.*sdedit"):
        check_suits(info, make_config())
    check_suits(info, make_config(name="sdedit", guidance_scale=1))
    with pytest.raises(ValueError, match=r"imagic.*not supported for z-image"):
        check_suits(info, make_config(name="imagic"))
    with pytest.raises(ValueError, match=r"model\.size=36: .*multiples of 8"):
        probe_model(Model(path=str(info.folder), size=36))
