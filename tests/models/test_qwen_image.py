"""Qwen-Image equals its own pipeline: texts, decode, half of the VAE; what it refuses."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import (
    AutoencoderKLQwenImage,
    FlowMatchEulerDiscreteScheduler,
    QwenImagePipeline,
    QwenImageTransformer2DModel,
)
from torch import Tensor

from pipeline.config.model import Model
from pipeline.config.stages import Stage
from pipeline.models.loading import load_model
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
from tests.tiny_models import shaken, tiny_qwen2_vl

# As published.
SCHEDULE = {
    "use_dynamic_shifting": True,
    "base_shift": 0.5,
    "max_shift": 0.9,
    "max_image_seq_len": 8192,
    "shift_terminal": 0.02,
}


def make_tiny_qwen_image(folder: Path) -> Path:
    """Writes a Qwen-Image folder with random weights: 16 x 8 x 8 latents of 32 x 32 images."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        tokenizer, encoder = tiny_qwen2_vl()
        transformer = QwenImageTransformer2DModel(
            num_layers=1,
            attention_head_dim=16,
            num_attention_heads=2,
            joint_attention_dim=32,
            axes_dims_rope=(4, 6, 6),
        )
        vae = AutoencoderKLQwenImage(
            base_dim=8,
            dim_mult=[1, 1, 2],
            num_res_blocks=1,
            temperal_downsample=[False, True],
            latents_mean=[0.1 * number for number in range(16)],
            latents_std=[0.2 + 0.05 * number for number in range(16)],
        )
    QwenImagePipeline(
        scheduler=FlowMatchEulerDiscreteScheduler(**SCHEDULE),
        vae=vae,
        text_encoder=encoder,
        tokenizer=tokenizer,
        transformer=shaken(transformer),
    ).save_pretrained(folder, safe_serialization=True)
    return folder


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> Any:
    return loaded(make_tiny_qwen_image(tmp_path_factory.mktemp("qwen") / "model"))


def test_texts_are_those_of_the_pipeline(both: tuple[Any, Any]) -> None:
    """Tokens bit for bit, each text with its own length; a long one is cut as in its call."""
    model, pipeline = both
    with torch.inference_mode():
        wanted = [pipeline.encode_prompt(text, max_sequence_length=512)[0][0] for text in TEXTS]
        condition = model.text.encode(TEXTS)
    assert same_rows(condition.rows(), wanted)
    assert len({len(row) for row in wanted}) > 2
    assert max(len(row) for row in wanted) == 512
    assert "cut at 546 of" in model.text.truncation_note("caption", TEXTS[3])
    start, end = "dog " * 500, [" cat", " red"]  # beyond the last token that is read
    assert model.text.token_ids(start + end[0]) == model.text.token_ids(start + end[1])


@pytest.mark.parametrize("scale", [1.0, 4.0])
def test_a_decode_is_that_of_the_pipeline(both: tuple[Any, Any], scale: float) -> None:
    """From the same noise, with its stretched schedule, and guidance that keeps the norm."""
    check_decode(*both, scale, is_packed=True, negative_prompt="", true_cfg_scale=scale)


def qwen_image_latents(pipeline: Any, mode: Tensor) -> Tensor:
    """The latents of one frame, with the mean and the deviation of each channel."""
    config = pipeline.vae.config
    mean, deviation = (
        torch.tensor(one).view(1, -1, 1, 1) for one in (config.latents_mean, config.latents_std)
    )
    return (mode[:, :, 0] - mean) / deviation


@pytest.mark.parametrize("half", ["encoder", "decoder"])
def test_one_half_of_the_vae_is_enough(both: tuple[Any, Any], half: str) -> None:
    """Stages keep only the half that they call."""
    model, _ = both
    part = load_model(Model(path=str(model.info.folder), size=SIDE), "cpu", Stage(), [half])
    latents = torch.randn(1, 16, 8, 8, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        if half == "decoder":
            (image,) = part.image_coder.decode(latents)
            assert (image == model.image_coder.decode(latents)[0]).all()
        else:
            (image,) = model.image_coder.decode(latents)
            found = part.image_coder.encode([image])
            assert torch.equal(found, model.image_coder.encode([image]))


def test_what_it_cannot_do_is_refused(tmp_path: Path) -> None:
    """Imagic, a size between patches, and the networks of other tasks."""
    folder = make_tiny_qwen_image(tmp_path / "model")
    info = probe_model(Model(path=str(folder), size=SIDE))
    assert (info.family, info.prediction_type, info.native_size) == ("qwen-image", "flow", 512)
    assert (info.latent_scale, info.latent_channels, info.multiple) == (4, 16, 8)
    with pytest.raises(ValueError, match=r"imagic.*not supported for qwen-image"):
        check_suits(info, make_config(name="imagic"))
    with pytest.raises(ValueError, match=r"model\.size=36: .*multiples of 8"):
        probe_model(Model(path=str(folder), size=36))
    of_vae = folder / "vae/config.json"
    stored = of_vae.read_text()
    of_vae.write_text(json.dumps(json.loads(stored) | {"latents_std": [1.0] * 15}))
    with pytest.raises(ValueError, match="latents_std of its VAE is not z_dim long"):
        probe_model(Model(path=str(folder), size=SIDE))
    of_vae.write_text(stored)
    config = folder / "transformer/config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"use_layer3d_rope": True}))
    with pytest.raises(ValueError, match="use_layer3d_rope=True of its network; allowed are text"):
        probe_model(Model(path=str(folder), size=SIDE))
