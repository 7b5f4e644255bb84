"""Makes small models with random weights in the real models' format, so tests download nothing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from diffusers import (
    AutoencoderKL,
    DDIMScheduler,
    EulerDiscreteScheduler,
    FlowMatchEulerDiscreteScheduler,
    SD3Transformer2DModel,
    StableDiffusion3Pipeline,
    StableDiffusionPipeline,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
)
from torch import nn
from transformers import (
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTextModelWithProjection,
    CLIPTokenizer,
    Gemma2Config,
    Gemma2Model,
    GemmaTokenizer,
    PreTrainedModel,
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
    Qwen2Tokenizer,
    Qwen3Config,
    T5Config,
    T5EncoderModel,
    T5Tokenizer,
)

START, END = "<|startoftext|>", "<|endoftext|>"
WORDS = "a an and the of on in with red green blue yellow dog cat circle square photo"
CHAT = (  # of Qwen3, in short
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
    "{% if not enable_thinking %}<think>{% endif %}"
)
BETAS = {
    "num_train_timesteps": 1000,
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "steps_offset": 1,
}


def make_tiny_stable_diffusion(
    folder: str | Path, prediction_type: str = "epsilon", seed: int = 0
) -> Path:
    """Writes a Stable Diffusion folder (safetensors) with random weights, in about a second.

    Images are 32 x 32, latents 4 x 8 x 8, texts at most 77 tokens. The tokenizer accepts any text:
    a word of ``WORDS`` is one token, any other character is one token. The text's influence on
    the predicted noise is scaled up, so that two different texts give a mask.

    Args:
        folder: created if it does not exist.
        prediction_type: epsilon, v_prediction or sample.
        seed: of the weights.

    Returns:
        The folder.
    """
    folder = Path(folder)
    tokenizer = tiny_tokenizer()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        text_encoder = CLIPTextModel(tiny_clip_config(len(tokenizer)))
        unet = _unet(cross_attention_dim=32)
        vae = _vae(latent_channels=4, scaling_factor=4.0)
        _strengthen_texts(unet, text_encoder)
    scheduler = DDIMScheduler(
        **BETAS, clip_sample=False, set_alpha_to_one=False, prediction_type=prediction_type
    )
    StableDiffusionPipeline(
        vae=vae,
        text_encoder=text_encoder,
        tokenizer=tokenizer,
        unet=unet,
        scheduler=scheduler,
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    ).save_pretrained(folder, safe_serialization=True)
    return folder


def make_tiny_sdxl(folder: str | Path, seed: int = 0, *, zero_empty: bool = True) -> Path:
    """Writes an SDXL folder with random weights: two text encoders, size conditioning.

    Images, latents and texts are those of ``make_tiny_stable_diffusion``.

    Args:
        folder: created if it does not exist.
        seed: of the weights.
        zero_empty: the model's ``force_zeros_for_empty_prompt``.

    Returns:
        The folder.
    """
    tokenizers = tiny_tokenizer(), tiny_tokenizer(pad_token="!")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        first = CLIPTextModel(tiny_clip_config(len(tokenizers[0])))
        second = CLIPTextModelWithProjection(
            tiny_clip_config(len(tokenizers[1]), projection_dim=24)
        )
        unet = _unet(
            cross_attention_dim=64,
            addition_embed_type="text_time",
            addition_time_embed_dim=8,
            projection_class_embeddings_input_dim=6 * 8 + 24,
        )
        vae = _vae(latent_channels=4, scaling_factor=4.0)
        _strengthen_texts(unet, first, second)
    StableDiffusionXLPipeline(
        vae=vae,
        text_encoder=first,
        text_encoder_2=second,
        tokenizer=tokenizers[0],
        tokenizer_2=tokenizers[1],
        unet=unet,
        scheduler=EulerDiscreteScheduler(**BETAS, timestep_spacing="leading"),
        force_zeros_for_empty_prompt=zero_empty,
    ).save_pretrained(folder, safe_serialization=True)
    return Path(folder)


def make_tiny_sd3(folder: str | Path, seed: int = 0, *, t5: bool = True) -> Path:
    """Writes a Stable Diffusion 3 folder with random weights: a transformer, 16 latent channels.

    Images are 32 x 32, latents 16 x 8 x 8; VAE and schedule have a shift.

    Args:
        folder: created if it does not exist.
        seed: of the weights.
        t5: False leaves out the third text encoder, as users do to save memory.

    Returns:
        The folder.
    """
    tokenizers = tiny_tokenizer(), tiny_tokenizer(pad_token="!")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        first, second = (
            CLIPTextModelWithProjection(tiny_clip_config(len(tokenizer), projection_dim=24))
            for tokenizer in tokenizers
        )
        t5_tokenizer, t5_encoder = tiny_t5(80)
        transformer = SD3Transformer2DModel(
            sample_size=8,
            patch_size=2,
            num_layers=2,
            attention_head_dim=16,
            num_attention_heads=2,
            joint_attention_dim=80,
            caption_projection_dim=32,
            pooled_projection_dim=48,
            pos_embed_max_size=16,
            qk_norm="rms_norm",
        )
        vae = _vae(
            latent_channels=16,
            scaling_factor=4.0,
            shift_factor=0.06,
            use_quant_conv=False,
            use_post_quant_conv=False,
        )
        _strengthen_texts(transformer, first, second)
    StableDiffusion3Pipeline(
        vae=vae,
        text_encoder=first,
        text_encoder_2=second,
        text_encoder_3=t5_encoder if t5 else None,
        tokenizer=tokenizers[0],
        tokenizer_2=tokenizers[1],
        tokenizer_3=t5_tokenizer if t5 else None,
        transformer=transformer,
        scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0),
    ).save_pretrained(folder, safe_serialization=True)
    return Path(folder)


def load_pipeline(kind: Any, folder: Path) -> Any:
    """Loads a diffusers pipeline from such a folder; components that it lacks are None."""
    absent = {
        name: None
        for name in ("text_encoder_3", "tokenizer_3")
        if (folder / "transformer").is_dir() and not (folder / name).is_dir()
    }
    pipeline = kind.from_pretrained(folder, **absent)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def _unet(**settings: Any) -> UNet2DConditionModel:
    return UNet2DConditionModel(
        sample_size=8,
        block_out_channels=(16, 32),
        layers_per_block=1,
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
        attention_head_dim=2,
        norm_num_groups=8,
        **settings,
    )


def _vae(**settings: Any) -> AutoencoderKL:
    """A VAE. Callers pass a scaling factor of 4 instead of 0.18215, for about unit variance."""
    return AutoencoderKL(**vae_settings(**settings))


def vae_settings(**settings: Any) -> dict[str, Any]:
    """Of a small VAE whose cells have 4 pixels a side."""
    fixed = {
        "block_out_channels": (8, 8, 16),
        "down_block_types": ("DownEncoderBlock2D",) * 3,
        "up_block_types": ("UpDecoderBlock2D",) * 3,
        "norm_num_groups": 8,
        "sample_size": 32,
        "scaling_factor": 4.0,
    }
    return fixed | settings


def tiny_tokenizer(**settings: str) -> CLIPTokenizer:
    """A byte-level vocabulary with merges that make each of ``WORDS`` one token."""
    vocabulary, merges = vocabulary_of_words([START, END], end="</w>")
    return CLIPTokenizer(vocab=vocabulary, merges=merges, model_max_length=77, **settings)


def vocabulary_of_words(
    special: list[str], end: str = ""
) -> tuple[dict[str, int], list[tuple[str, str]]]:
    """(token ids, merges) of a byte-level tokenizer that knows ``WORDS``.

    Args:
        special: tokens that come last.
        end: what marks the last letter of a word.
    """
    letters = sorted(_byte_letters())
    vocabulary = [*letters, *(letter + end for letter in letters if end)]
    merges: list[tuple[str, str]] = []
    for word in WORDS.split():
        pieces = [*word[:-1], word[-1] + end]
        left = pieces[0]
        for right in pieces[1:]:
            if (left, right) not in merges:
                merges.append((left, right))
                vocabulary.append(left + right)
            left += right
    return {token: number for number, token in enumerate([*vocabulary, *special])}, merges


def _t5_tokenizer() -> T5Tokenizer:
    """A vocabulary of single letters and the ``WORDS``."""
    special = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), ("\u2581", -2.0)]
    letters = [(chr(code), -6.0) for code in range(33, 127)]
    words = [(f"\u2581{word}", -3.0) for word in WORDS.split() if len(word) > 1]
    return T5Tokenizer(vocab=[*special, *letters, *words], extra_ids=0, model_max_length=512)


def tiny_t5(width: int) -> tuple[T5Tokenizer, T5EncoderModel]:
    """A tokenizer and an encoder with random weights, whose hidden states have this width."""
    tokenizer = _t5_tokenizer()
    config = T5Config(
        vocab_size=len(tokenizer),
        d_model=width,
        d_kv=16,
        d_ff=64,
        num_layers=1,
        num_heads=2,
        feed_forward_proj="gated-gelu",
    )
    return tokenizer, T5EncoderModel(config)


def _qwen_tokenizer() -> Qwen2Tokenizer:
    special = ["<|im_start|>", "<|im_end|>", "<|endoftext|>"]
    vocabulary, merges = vocabulary_of_words(special)
    return Qwen2Tokenizer(vocab=vocabulary, merges=merges, pad_token=special[-1])


def tiny_qwen2_vl() -> tuple[Qwen2Tokenizer, Any]:
    """A tokenizer, and an encoder of texts and images with random weights, 32 wide."""
    tokenizer = _qwen_tokenizer()
    text = {
        "vocab_size": len(tokenizer),
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "num_hidden_layers": 2,
        "rope_parameters": {
            "rope_type": "default",
            "rope_theta": 10000.0,
            "mrope_section": [2, 3, 3],
        },
        "bos_token_id": None,
        "eos_token_id": None,
    }
    images = {
        "depth": 1,
        "hidden_size": 32,
        "intermediate_size": 32,
        "num_heads": 2,
        "out_hidden_size": 32,
        "fullatt_block_indexes": [0],
    }
    encoder = Qwen2_5_VLForConditionalGeneration(
        Qwen2_5_VLConfig(text_config=text, vision_config=images)
    )
    encoder.get_input_embeddings().weight.data.mul_(50.0)
    return tokenizer, encoder


def tiny_gemma2() -> tuple[GemmaTokenizer, Gemma2Model]:
    """A tokenizer of single letters, and an encoder with random weights, 32 wide."""
    special = ["<pad>", "<eos>", "<bos>", "<unk>", "<mask>", "\u2581"]
    letters = [chr(code) for code in range(33, 127)]
    vocabulary = {token: number for number, token in enumerate([*special, *letters])}
    tokenizer = GemmaTokenizer(vocab=vocabulary, merges=[])
    config = Gemma2Config(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=64,
        head_dim=16,
        num_attention_heads=2,
        num_key_value_heads=1,
        num_hidden_layers=2,
        query_pre_attn_scalar=16,
    )
    encoder = Gemma2Model(config)
    encoder.get_input_embeddings().weight.data.mul_(20.0)
    return tokenizer, encoder


def tiny_qwen3(kind: Any, layers: int = 3) -> tuple[Qwen2Tokenizer, Any]:
    """A tokenizer with a chat's template, and an encoder with random weights, 32 wide."""
    tokenizer = _qwen_tokenizer()
    tokenizer.chat_template = CHAT
    config = Qwen3Config(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=64,
        head_dim=16,
        num_attention_heads=2,
        num_key_value_heads=1,
        num_hidden_layers=layers,
    )
    encoder = kind(config)
    encoder.get_input_embeddings().weight.data.mul_(50.0)
    return tokenizer, encoder


def shaken(network: nn.Module, deviation: float = 0.1) -> nn.Module:
    """The network with noise on all weights: some start as zeros, and would hide their inputs."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        for parameter in network.parameters():
            parameter.data.add_(deviation * torch.randn(parameter.shape))
    return network


def _byte_letters() -> list[str]:
    """The 256 printable letters that represent bytes in byte-level BPE (GPT-2's table)."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    return [chr(byte) for byte in printable] + [chr(256 + n) for n in range(256 - len(printable))]


def tiny_clip_config(vocab_size: int, **settings: int) -> CLIPTextConfig:
    return CLIPTextConfig(
        vocab_size=vocab_size,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=77,
        bos_token_id=vocab_size - 2,
        eos_token_id=vocab_size - 1,
        pad_token_id=vocab_size - 1,
        **settings,
    )


def _strengthen_texts(network: nn.Module, *text_encoders: PreTrainedModel) -> None:
    """Scales up the token embeddings and the layers that read them, which are weak at random."""
    readers = ("attn2.to_", "context_embedder", "text_embedder", "norm1.linear")
    with torch.no_grad():
        for encoder in text_encoders:
            encoder.get_input_embeddings().weight.mul_(50.0)
        for name, parameter in network.named_parameters():
            if name.endswith("weight") and any(reader in name for reader in readers):
                parameter.mul_(3.0)
