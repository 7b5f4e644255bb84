"""Models to measure: a folder, the bundled one, or a real architecture with random weights.

Time does not depend on the weights, so ``random:sd15`` measures the speed of Stable Diffusion 1.5
without a download. It uses the bundled model's tokenizer. ``random:sd3`` has no T5, as its users
save memory; that of ``random:flux`` has one layer and a table of letters, since texts are encoded
once and the network is what is measured.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from diffusers import (
    AutoencoderKL,
    DDIMScheduler,
    FlowMatchEulerDiscreteScheduler,
    FluxPipeline,
    FluxTransformer2DModel,
    SD3Transformer2DModel,
    StableDiffusion3Pipeline,
    StableDiffusionPipeline,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
)
from transformers import (
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTextModelWithProjection,
    CLIPTokenizer,
    T5Config,
    T5EncoderModel,
    T5Tokenizer,
)

from pipeline.config.load import ConfigError
from pipeline.config.model import Model
from pipeline.models.loading import DTYPES
from pipeline.models.model_files import locate_model

MAX_TOKENS = 77
# Architectures as published with their checkpoints; everything else is diffusers' default.
SD15_UNET: dict[str, Any] = {
    "sample_size": 64,
    "cross_attention_dim": 768,
    "attention_head_dim": 8,
    "block_out_channels": (320, 640, 1280, 1280),
}
SDXL_UNET: dict[str, Any] = {
    "sample_size": 128,
    "cross_attention_dim": 2048,
    "attention_head_dim": (5, 10, 20),
    "block_out_channels": (320, 640, 1280),
    "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
    "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
    "transformer_layers_per_block": (1, 2, 10),
    "use_linear_projection": True,
    "addition_embed_type": "text_time",
    "addition_time_embed_dim": 256,
    "projection_class_embeddings_input_dim": 2816,
}
SD3_TRANSFORMER: dict[str, Any] = {
    "sample_size": 128,
    "num_layers": 24,
    "attention_head_dim": 64,
    "num_attention_heads": 24,
    "joint_attention_dim": 4096,
    "caption_projection_dim": 1536,
    "pooled_projection_dim": 2048,
    "pos_embed_max_size": 192,
}
FLUX_TRANSFORMER: dict[str, Any] = {
    "in_channels": 64,
    "num_layers": 19,
    "num_single_layers": 38,
    "attention_head_dim": 128,
    "num_attention_heads": 24,
    "joint_attention_dim": 4096,
    "pooled_projection_dim": 768,
    "guidance_embeds": True,
    "axes_dims_rope": (16, 56, 56),
}
T5: dict[str, Any] = {
    "d_model": 4096,
    "d_kv": 64,
    "d_ff": 10240,
    "num_layers": 1,
    "num_heads": 64,
    "feed_forward_proj": "gated-gelu",
}
CLIP_LARGE: dict[str, Any] = {
    "hidden_size": 768,
    "intermediate_size": 3072,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
}
OPEN_CLIP_BIG: dict[str, Any] = {
    "hidden_size": 1280,
    "intermediate_size": 5120,
    "num_hidden_layers": 32,
    "num_attention_heads": 20,
    "projection_dim": 1280,
    "hidden_act": "gelu",
}
VAE: dict[str, Any] = {
    "block_out_channels": (128, 256, 512, 512),
    "layers_per_block": 2,
    "down_block_types": ("DownEncoderBlock2D",) * 4,
    "up_block_types": ("UpDecoderBlock2D",) * 4,
    "latent_channels": 4,
}
FLOW_VAE = {"latent_channels": 16, "use_quant_conv": False, "use_post_quant_conv": False}
DYNAMIC_SHIFT = {"use_dynamic_shifting": True, "base_shift": 0.5, "max_shift": 1.15, "shift": 3.0}
SCHEDULE: dict[str, Any] = {
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "clip_sample": False,
    "set_alpha_to_one": False,
    "steps_offset": 1,
}


def model_folder(name: str, dtype: str, home: Path, device: str = "cpu") -> str:
    """The ``model.path`` of a named model. A random model is written below ``home``, once.

    Args:
        name: "bundled", a folder, a hub id, or one of ``RANDOM``.
        dtype: of a random model's weights in memory and on disk (bfloat16: 2.1 GB for sd15, 7.1 GB
            for sdxl, 5.8 GB for sd3, 24.7 GB for flux, and as much memory while it is written).
        home: the folder for random models.
        device: where a random model's weights are drawn; a GPU takes seconds for the largest.

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
        drawn = torch.random.fork_rng(devices=[]), _default_dtype(DTYPES[dtype])
        with drawn[0], drawn[1], torch.device(device):
            torch.manual_seed(0)
            pipeline = RANDOM[name](_tokenizer())
        pipeline.save_pretrained(folder, safe_serialization=True)
    return str(folder)


def _sd15(tokenizer: CLIPTokenizer) -> StableDiffusionPipeline:
    return StableDiffusionPipeline(
        unet=UNet2DConditionModel(**SD15_UNET),
        vae=AutoencoderKL(sample_size=512, scaling_factor=0.18215, **VAE),
        text_encoder=CLIPTextModel(_text_config(tokenizer, CLIP_LARGE)),
        tokenizer=tokenizer,
        scheduler=DDIMScheduler(**SCHEDULE),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )


def _sdxl(tokenizer: CLIPTokenizer) -> StableDiffusionXLPipeline:
    return StableDiffusionXLPipeline(
        unet=UNet2DConditionModel(**SDXL_UNET),
        vae=AutoencoderKL(sample_size=1024, scaling_factor=0.13025, **VAE),
        text_encoder=CLIPTextModel(_text_config(tokenizer, CLIP_LARGE)),
        text_encoder_2=CLIPTextModelWithProjection(_text_config(tokenizer, OPEN_CLIP_BIG)),
        tokenizer=tokenizer,
        tokenizer_2=tokenizer,
        scheduler=DDIMScheduler(**SCHEDULE),
        add_watermarker=False,
    )


def _sd3(tokenizer: CLIPTokenizer) -> StableDiffusion3Pipeline:
    large = CLIP_LARGE | {"projection_dim": CLIP_LARGE["hidden_size"]}
    return StableDiffusion3Pipeline(
        transformer=SD3Transformer2DModel(**SD3_TRANSFORMER),
        vae=AutoencoderKL(**VAE | FLOW_VAE, scaling_factor=1.5305, shift_factor=0.0609),
        text_encoder=CLIPTextModelWithProjection(_text_config(tokenizer, large)),
        text_encoder_2=CLIPTextModelWithProjection(_text_config(tokenizer, OPEN_CLIP_BIG)),
        text_encoder_3=None,
        tokenizer=tokenizer,
        tokenizer_2=tokenizer,
        tokenizer_3=None,
        scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0),
    )


def _flux(tokenizer: CLIPTokenizer) -> FluxPipeline:
    letters = [(chr(code), -6.0) for code in range(33, 127)]
    special = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), ("\u2581", -2.0)]
    t5_tokenizer = T5Tokenizer(vocab=[*special, *letters], extra_ids=0, model_max_length=512)
    return FluxPipeline(
        transformer=FluxTransformer2DModel(**FLUX_TRANSFORMER),
        vae=AutoencoderKL(**VAE | FLOW_VAE, scaling_factor=0.3611, shift_factor=0.1159),
        text_encoder=CLIPTextModel(_text_config(tokenizer, CLIP_LARGE)),
        text_encoder_2=T5EncoderModel(T5Config(vocab_size=len(t5_tokenizer), **T5)),
        tokenizer=tokenizer,
        tokenizer_2=t5_tokenizer,
        scheduler=FlowMatchEulerDiscreteScheduler(**DYNAMIC_SHIFT),
    )


RANDOM: dict[str, Callable[[CLIPTokenizer], Any]] = {
    "random:sd15": _sd15,
    "random:sdxl": _sdxl,
    "random:sd3": _sd3,
    "random:flux": _flux,
}


def _tokenizer() -> CLIPTokenizer:
    bundled = locate_model(Model(path="bundled")).folder
    return CLIPTokenizer.from_pretrained(
        bundled / "tokenizer",
        local_files_only=True,
        model_max_length=MAX_TOKENS,
        trust_remote_code=False,
    )


def _text_config(tokenizer: CLIPTokenizer, architecture: dict[str, Any]) -> CLIPTextConfig:
    return CLIPTextConfig(
        vocab_size=len(tokenizer),
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        max_position_embeddings=MAX_TOKENS,
        **architecture,
    )


@contextmanager
def _default_dtype(dtype: torch.dtype) -> Iterator[None]:
    """Networks that are built meanwhile have this dtype at once, without a copy in float32."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)
