"""Makes small random models in the format of the big ones: a test needs no download."""

from __future__ import annotations

from pathlib import Path

import torch
from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

START, END = "<|startoftext|>", "<|endoftext|>"
WORDS = "a an and the of on in with red green blue yellow dog cat circle square photo"


def make_tiny_stable_diffusion(
    folder: str | Path, prediction_type: str = "epsilon", seed: int = 0
) -> Path:
    """Writes a Stable Diffusion folder (safetensors) with random weights, in about a second.

    Pictures of 32 x 32, latents of 4 x 8 x 8, texts of at most 77 tokens: any text can be read, a
    word of ``WORDS`` is one token and other characters are one token each. The text's influence on
    the predicted noise is made strong, so that two texts that differ give a mask.

    Args:
        folder: made if it does not exist.
        prediction_type: epsilon, v_prediction or sample.
        seed: of the weights.

    Returns:
        The folder.
    """
    folder = Path(folder)
    tokenizer = _tokenizer()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        text_encoder = CLIPTextModel(_text_config(len(tokenizer)))
        unet = UNet2DConditionModel(
            sample_size=8,
            block_out_channels=(16, 32),
            layers_per_block=1,
            down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
            up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
            cross_attention_dim=32,
            attention_head_dim=2,
            norm_num_groups=8,
        )
        vae = AutoencoderKL(
            block_out_channels=(8, 8, 16),
            down_block_types=("DownEncoderBlock2D",) * 3,
            up_block_types=("UpDecoderBlock2D",) * 3,
            latent_channels=4,
            norm_num_groups=8,
            sample_size=32,
            scaling_factor=4.0,  # latents of about unit variance; not 0.18215
        )
        _strengthen_texts(text_encoder, unet)
    scheduler = DDIMScheduler(
        num_train_timesteps=1000,
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        clip_sample=False,
        set_alpha_to_one=False,
        steps_offset=1,
        prediction_type=prediction_type,
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


def _tokenizer() -> CLIPTokenizer:
    """A byte-level vocabulary with the merges that make each of ``WORDS`` one token."""
    letters = sorted(_byte_letters())
    vocabulary = [*letters, *(letter + "</w>" for letter in letters)]
    merges: list[tuple[str, str]] = []
    for word in WORDS.split():
        pieces = [*word[:-1], word[-1] + "</w>"]
        left = pieces[0]
        for right in pieces[1:]:
            if (left, right) not in merges:
                merges.append((left, right))
                vocabulary.append(left + right)
            left += right
    vocabulary += [START, END]
    return CLIPTokenizer(
        vocab={token: number for number, token in enumerate(vocabulary)},
        merges=merges,
        model_max_length=77,
    )


def _byte_letters() -> list[str]:
    """The 256 printable letters that byte-level BPE writes bytes with (GPT-2's table)."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    return [chr(byte) for byte in printable] + [chr(256 + n) for n in range(256 - len(printable))]


def _text_config(vocab_size: int) -> CLIPTextConfig:
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
    )


def _strengthen_texts(text_encoder: CLIPTextModel, unet: UNet2DConditionModel) -> None:
    """Scales the token embeddings and the cross-attention, which random weights leave faint."""
    with torch.no_grad():
        text_encoder.get_input_embeddings().weight.mul_(50.0)
        for name, parameter in unet.named_parameters():
            if "attn2.to_" in name and name.endswith("weight"):
                parameter.mul_(3.0)
