"""Loaded SDXL and Stable Diffusion 3 models match diffusers' pipelines in texts, sizes, dtypes."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
import torch
from diffusers import DiffusionPipeline
from torch import Tensor

from pipeline.config.model import Model
from pipeline.config.stages import Stage
from pipeline.models.loading import LatentDiffusion, load_model
from tests.tiny_models import load_pipeline, make_tiny_sd3, make_tiny_sdxl

TEXTS = ["a cat", "a red dog on the circle", "dog " * 100, "a cat", "A Cat"]


def encode_prompt(folder: Path, texts: list[str]) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """diffusers' tokens and pooled embeddings of the texts, and of the default negative prompt."""
    pipeline = load_pipeline(DiffusionPipeline, folder)
    others: dict[str, Any] = {"prompt_2": None}
    if hasattr(pipeline, "transformer"):
        others["prompt_3"] = None
    with torch.inference_mode():
        tokens, negative_tokens, pooled, negative_pooled = pipeline.encode_prompt(
            texts, do_classifier_free_guidance=True, **others
        )
    return tokens, pooled, negative_tokens, negative_pooled


def test_texts_are_encoded_as_in_the_familys_pipeline(family_model: LatentDiffusion) -> None:
    """Tokens and pooled embeddings equal encode_prompt's, for texts and for the empty text."""
    tokens, pooled, no_tokens, no_pooled = encode_prompt(family_model.info.folder, TEXTS)
    ours, empty = family_model.text.encode(TEXTS), family_model.text.encode([""] * len(TEXTS))
    assert ours.pooled is not None
    assert empty.pooled is not None
    for found, expected in (
        (ours.tokens, tokens),
        (ours.pooled, pooled),
        (empty.tokens, no_tokens),
        (empty.pooled, no_pooled),
    ):
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
    assert torch.equal(ours.tokens[0], ours.tokens[3])
    assert not torch.equal(ours.pooled[0], ours.pooled[1])


def test_empty_text_is_zero_if_the_model_says_so(tmp_path: Path) -> None:
    """force_zeros_for_empty_prompt zeroes empty and blank texts, and no others."""
    model = load_model(Model(path=str(make_tiny_sdxl(tmp_path / "zero"))), "cpu", Stage())
    other = make_tiny_sdxl(tmp_path / "encoded", zero_empty=False)
    encoded = load_model(Model(path=str(other)), "cpu", Stage()).text.encode(["", "a cat"])
    zero = model.text.encode(["", "  ", "a cat"])
    assert zero.pooled is not None
    assert encoded.pooled is not None
    assert not zero.tokens[:2].any()
    assert not zero.pooled[:2].any()
    assert torch.equal(zero.tokens[2], encoded.tokens[1])
    assert torch.equal(zero.pooled[2], encoded.pooled[1])
    assert encoded.tokens[0].any()
    assert encoded.pooled[0].any()


def test_note_names_the_encoders_that_truncate_a_text(
    family_model: LatentDiffusion, family_folder: Path
) -> None:
    """Both CLIPs read 77 tokens; T5, if present, does not truncate a text of 100 words."""
    note = family_model.text.truncation_note
    assert note("caption", "a dog") is None
    medium, long = note("caption", "dog " * 100), note("caption", "dog " * 300)
    if len(family_model.text.towers) == 2:
        assert medium == "caption cut at 77 of 102 tokens"
    else:
        assert medium == "caption cut at 77 of 102 tokens by text_encoder, text_encoder_2"
        assert long is not None
        assert long.endswith("; caption cut at 256 of 301 tokens by text_encoder_3")


@pytest.mark.parametrize("text", ["", "\ud800", "日本語 🐕", "<|endoftext|>", "</s>", "\0"])
def test_any_text_can_be_encoded(family_model: LatentDiffusion, text: str) -> None:
    """No text raises an error in any tokenizer."""
    condition = family_model.text.encode([text])
    assert condition.tokens.isfinite().all()
    assert condition.pooled is not None
    assert condition.pooled.isfinite().all()


def test_sdxl_is_conditioned_on_the_size_of_the_models_image(tmp_path: Path) -> None:
    """Original and target size are those of the latent's image, height first; no crop."""
    model = load_model(Model(path=str(make_tiny_sdxl(tmp_path / "model"))), "cpu", Stage())
    seen: list[dict[str, Tensor]] = []
    model.unbatched.network.register_forward_pre_hook(
        lambda module, args, kwargs: seen.append(kwargs["added_cond_kwargs"]), with_kwargs=True
    )
    text = model.text.encode(["a cat", "a dog"])
    model.denoiser(torch.zeros(2, 4, 8, 12), model.schedule.level_at(0.5), text)
    assert seen[0]["time_ids"].tolist() == [[32.0, 48.0, 0.0, 0.0, 32.0, 48.0]] * 2
    assert text.pooled is not None
    assert torch.equal(seen[0]["text_embeds"], text.pooled)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_half_precision_is_close_to_float32(
    family_model: LatentDiffusion, dtype: Literal["float16", "bfloat16"], tolerance: dict
) -> None:
    """Weights have the configured dtype; results are float32 and close to full precision."""
    model = load_model(
        Model(path=str(family_model.info.folder), dtype=dtype),
        "cpu",
        Stage(),
    )
    network = model.unbatched.network
    assert network.dtype == model.text.towers[0].encoder.dtype == getattr(torch, dtype)
    shape = (2, model.info.latent_channels, 8, 8)
    latent = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    image = np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8)
    level = model.schedule.level_at(0.5)
    results = []
    with torch.inference_mode():
        for each in (family_model, model):
            text = each.text.encode(["a cat", "a dog"])
            results.append((each.denoiser(latent, level, text), each.image_coder.encode([image])))
            assert each.image_coder.decode(latent).shape == (2, 32, 32, 3)
    for full, half in zip(*results, strict=True):
        assert half.dtype == torch.float32
        error = float((half - full).norm() / full.norm())
        assert error < 8.0 * tolerance[getattr(torch, dtype)]


def test_vae_is_float32_instead_of_float16(family_folder: Path) -> None:
    """force_upcast applies to float16 only: bfloat16 has float32's range and cannot overflow."""
    wanted: tuple[Literal["float16", "bfloat16"], ...] = ("float16", "bfloat16")
    dtypes = {
        dtype: load_model(
            Model(path=str(family_folder), dtype=dtype),
            "cpu",
            Stage(),
        ).image_coder.vae.dtype
        for dtype in wanted
    }
    assert dtypes == {"float16": torch.float32, "bfloat16": torch.bfloat16}


def test_flow_model_rows_use_their_own_text(tmp_path: Path) -> None:
    """Each row of a batch gets the level's timestep, and its own text."""
    model = load_model(Model(path=str(make_tiny_sd3(tmp_path / "model"))), "cpu", Stage())
    latent = torch.randn(2, 16, 8, 8, generator=torch.Generator().manual_seed(0))
    level = model.schedule.level_at(0.5)
    text = model.text.encode(["a cat", "a red dog"])
    with torch.inference_mode():
        both = model.denoiser(latent, level, text)
        one = model.denoiser(latent[1:], level, text[1:])
        raw = model.unbatched.network(
            latent, text.tokens, text.pooled, torch.tensor([750.0, 750.0])
        ).sample
    torch.testing.assert_close(both[1:], one, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(both, latent + 0.25 * raw, rtol=1e-5, atol=1e-6)
