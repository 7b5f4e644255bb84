"""Models to measure: a folder, the bundled one, or a real architecture with random weights.

Time does not depend on the weights, so ``random:sd15`` is as good for speed as Stable Diffusion
1.5 itself, and needs no download. Its texts are read by the bundled model's tokenizer.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from pipeline.models.loading import DTYPES
from pipeline.models.model_files import locate_model
from pipeline.words.config import Model
from pipeline.words.config_file import ConfigError

MAX_TOKENS = 77
# As Stable Diffusion 1.5 publishes them; what is not named is diffusers' default.
SD15_UNET: dict[str, Any] = {
    "sample_size": 64,
    "cross_attention_dim": 768,
    "attention_head_dim": 8,
    "block_out_channels": (320, 640, 1280, 1280),
}
SD15_TEXT: dict[str, Any] = {
    "hidden_size": 768,
    "intermediate_size": 3072,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "max_position_embeddings": MAX_TOKENS,
}
VAE: dict[str, Any] = {
    "block_out_channels": (128, 256, 512, 512),
    "layers_per_block": 2,
    "down_block_types": ("DownEncoderBlock2D",) * 4,
    "up_block_types": ("UpDecoderBlock2D",) * 4,
    "latent_channels": 4,
}
RANDOM = ("random:sd15",)


def model_folder(name: str, dtype: str, home: Path) -> str:
    """What ``model.path`` is to be: a random model is written below ``home`` once, and found again.

    Args:
        name: "bundled", a folder, a hub id, or one of ``RANDOM``.
        dtype: in which a random model's weights are kept on disk (bfloat16: 2.1 GB for sd15).
        home: a folder for random models.

    Raises:
        ConfigError: an unknown random model.
    """
    if not name.startswith("random:"):
        return name
    if name not in RANDOM:
        raise ConfigError(f"--model {name}: allowed are {', '.join(RANDOM)}, bundled or a folder")
    folder = home / f"{name.replace(':', '_')}_{dtype}"
    if not (folder / "model_index.json").is_file():  # written last by save_pretrained
        print(f"writing {folder}", flush=True)
        _write_sd15(folder, DTYPES[dtype])
    return str(folder)


def _write_sd15(folder: Path, dtype: torch.dtype) -> None:
    bundled, _ = locate_model(Model(path="bundled"))
    tokenizer = CLIPTokenizer.from_pretrained(
        bundled / "tokenizer", local_files_only=True, model_max_length=MAX_TOKENS
    )
    text = CLIPTextConfig(
        vocab_size=len(tokenizer),
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        **SD15_TEXT,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        parts = {
            "unet": UNet2DConditionModel(**SD15_UNET),
            "vae": AutoencoderKL(sample_size=512, scaling_factor=0.18215, **VAE),
            "text_encoder": CLIPTextModel(text),
        }
    StableDiffusionPipeline(
        **{name: network.to(dtype) for name, network in parts.items()},
        tokenizer=tokenizer,
        scheduler=DDIMScheduler(
            beta_start=0.00085,
            beta_end=0.012,
            beta_schedule="scaled_linear",
            clip_sample=False,
            set_alpha_to_one=False,
            steps_offset=1,
        ),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    ).save_pretrained(folder, safe_serialization=True)
