"""Stages `latents` and `unet`: encode the scenes once, then train UNet and text encoder."""

from __future__ import annotations

import shutil
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from jobs.train_demo_loop import device_of, train, worker
from jobs.train_demo_progress import StageSettings
from jobs.train_demo_vae import encode_means, picture_batch
from pipeline.demo.captions import PHRASINGS, caption
from pipeline.demo.vocabulary import MAX_LENGTH, vocabulary, write_tokenizer
from pipeline.demo.world import sample_scene

# N pictures, C latent channels, h w latent grid, L tokens.


class TextToNoise(nn.Module):
    """The two networks that are trained together: words in, noise out."""

    def __init__(self, unet: UNet2DConditionModel, text_encoder: CLIPTextModel) -> None:
        super().__init__()
        self.unet = unet
        self.text_encoder = text_encoder

    def forward(self, latents_NChw: Tensor, timesteps_N: Tensor, ids_NL: Tensor) -> Tensor:
        """The predicted noise, shaped like the latents, float32."""
        words = self.text_encoder(ids_NL)[0]
        return self.unet(latents_NChw, timesteps_N, words, return_dict=False)[0].float()


def build_networks(settings: dict[str, Any], latent_channels: int) -> TextToNoise:
    """Untrained networks; the text encoder's width is the UNet's cross-attention width."""
    width, tokens = settings["text_width"], vocabulary()
    unet = UNet2DConditionModel(
        sample_size=16,
        in_channels=latent_channels,
        out_channels=latent_channels,
        block_out_channels=settings["channels"],
        down_block_types=settings["down_blocks"],
        up_block_types=settings["up_blocks"],
        layers_per_block=1,
        norm_num_groups=16,
        cross_attention_dim=width,
        attention_head_dim=4,  # the number of heads, in spite of its name (diffusers issue 2011)
    )
    text = CLIPTextConfig(
        vocab_size=len(tokens),
        hidden_size=width,
        intermediate_size=4 * width,
        projection_dim=width,
        num_hidden_layers=settings["text_layers"],
        num_attention_heads=4,
        max_position_embeddings=MAX_LENGTH,
        bos_token_id=len(tokens) - 2,
        eos_token_id=len(tokens) - 1,
        pad_token_id=len(tokens) - 1,
    )
    return TextToNoise(unet, CLIPTextModel(text))


def load_weights(network: TextToNoise, folder: Path) -> None:
    """Start from a saved model of the same settings: its averaged weights, no optimizer's state."""
    unet = UNet2DConditionModel.from_pretrained(folder / "unet", torch_dtype=torch.float32)
    text_encoder = CLIPTextModel.from_pretrained(folder / "text_encoder", dtype=torch.float32)
    network.unet.load_state_dict(unet.state_dict())
    network.text_encoder.load_state_dict(text_encoder.state_dict())


def build_scheduler(prediction_type: str = "epsilon") -> DDIMScheduler:
    """Stable Diffusion's own schedule."""
    return DDIMScheduler(
        num_train_timesteps=1000,
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        clip_sample=False,
        set_alpha_to_one=False,
        steps_offset=1,
        timestep_spacing="leading",
        prediction_type=prediction_type,
    )


def encode_latents(settings: dict[str, Any], folder: Path) -> None:
    """Write latents.npy (N, C, h, w) float16, scaled, and tokens.npy (N, phrasings, L) int16.

    Workers take every world-th chunk of one shared file.
    """
    vae = AutoencoderKL.from_pretrained(folder / "vae" / "model", torch_dtype=torch.float32)
    write_tokenizer(folder / "tokenizer")
    tokenizer = CLIPTokenizer.from_pretrained(folder / "tokenizer")
    rank, world = worker()
    count, seed, chunk = settings["scenes"], settings["seed"], 128
    shape = (count, vae.config.latent_channels, 16, 16)
    if rank == 0:
        np.lib.format.open_memmap(folder / "latents.npy", "w+", np.float16, shape)
        np.lib.format.open_memmap(
            folder / "tokens.npy", "w+", np.int16, (count, len(PHRASINGS), MAX_LENGTH)
        )
    if world > 1:
        dist.barrier()
    latents = np.load(folder / "latents.npy", mmap_mode="r+")
    tokens = np.load(folder / "tokens.npy", mmap_mode="r+")
    for first in range(rank * chunk, count, world * chunk):
        size = min(chunk, count - first)
        with torch.autocast(device_of(vae).type, torch.bfloat16):
            encoded = encode_means(vae, picture_batch(seed, "train", first, size))
        latents[first : first + size] = encoded.numpy() * vae.config.scaling_factor
        scenes = [sample_scene(seed, "train", first + number) for number in range(size)]
        texts = [caption(scene, phrasing) for scene in scenes for phrasing in range(len(PHRASINGS))]
        ids = tokenizer(
            texts, padding="max_length", truncation=True, max_length=MAX_LENGTH, return_tensors="np"
        )
        tokens[first : first + size] = ids.input_ids.reshape(size, len(PHRASINGS), MAX_LENGTH)
        if rank == 0 and first % (world * chunk * 20) == 0:
            print(f"encoded {first} of {count}", flush=True)
    latents.flush()
    tokens.flush()
    if world > 1:
        dist.barrier()


def min_snr_weights(alphas_cumprod_N: Tensor, gamma: float) -> Tensor:
    """Loss weights for predicted noise: min(snr, gamma) / snr (Min-SNR, arXiv:2303.09556)."""
    snr = alphas_cumprod_N / (1 - alphas_cumprod_N)
    return snr.clamp(max=gamma) / snr


def train_unet(settings: dict[str, Any], folder: Path, *, device: str, resume: bool) -> None:
    """Train on the cached latents; snapshots and the final model go to `folder`/model."""
    stage = StageSettings.from_mapping(settings)
    latents = torch.from_numpy(np.load(folder / "latents.npy")).float()
    tokens = torch.from_numpy(np.load(folder / "tokens.npy"))
    tokenizer = CLIPTokenizer.from_pretrained(folder / "tokenizer")
    empty_L = torch.tensor(tokenizer("", padding="max_length", max_length=MAX_LENGTH).input_ids)
    torch.manual_seed(stage.seed)
    network = build_networks(settings, latents.shape[1])
    if settings.get("start_from"):
        load_weights(network, Path(settings["start_from"]))
    network.to(device)
    alphas_cumprod = build_scheduler().alphas_cumprod
    rank, world = worker()
    share = stage.batch_size // world

    def losses_at(step: int, fraction: float, generator: torch.Generator) -> dict[str, Tensor]:
        def randint(high: int) -> Tensor:
            return torch.randint(high, (share,), generator=generator)

        rows_N = randint(len(latents))
        clean, ids = latents[rows_N], tokens[rows_N, randint(len(PHRASINGS))].long()
        dropped_N = torch.rand(share, generator=generator) < settings["empty_captions"]
        ids[dropped_N] = empty_L
        timesteps_N = randint(len(alphas_cumprod))
        level_N = alphas_cumprod[timesteps_N]
        noise = torch.randn(clean.shape, generator=generator)
        noisy = (
            level_N.sqrt()[:, None, None, None] * clean
            + (1 - level_N).sqrt()[:, None, None, None] * noise
        )
        # On a CPU fused attention's backward pass takes longer than all convolutions (torch 2.13).
        with sdpa_kernel(SDPBackend.MATH) if device == "cpu" else nullcontext():
            predicted = network(noisy.to(device), timesteps_N.to(device), ids.to(device))
        error_N = (predicted - noise.to(device)).square().mean((1, 2, 3))
        weights_N = min_snr_weights(level_N, settings["min_snr_gamma"]).to(device)
        return {"loss": (weights_N * error_N).mean(), "mse": error_N.mean()}

    def snapshot(trained: nn.Module, step: int) -> None:
        save_pipeline(network, folder, folder / "snapshot")

    train(network, losses_at, stage, folder / "unet", resume=resume, after_checkpoint=snapshot)
    if rank == 0:
        save_pipeline(network, folder, folder / "model")


def save_pipeline(network: TextToNoise, folder: Path, target: Path) -> None:
    """Write the whole model as a StableDiffusionPipeline folder; `target` appears complete."""
    pipeline = StableDiffusionPipeline(
        vae=AutoencoderKL.from_pretrained(folder / "vae" / "model"),
        text_encoder=network.text_encoder,
        tokenizer=CLIPTokenizer.from_pretrained(folder / "tokenizer"),
        unet=network.unet,
        scheduler=build_scheduler(),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    partial = target.with_name(target.name + ".partial")
    pipeline.save_pretrained(partial, safe_serialization=True)
    write_tokenizer(partial / "tokenizer")
    shutil.rmtree(target, ignore_errors=True)
    partial.rename(target)
