"""Stage `vae`: trains the demo model's autoencoder on drawn scenes, then centers its latents."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import AutoencoderKL
from torch import Tensor

from jobs.train_demo.loop import device_of, train, worker
from jobs.train_demo.progress import StageSettings
from pipeline.demo.edits import FAINT
from pipeline.demo.world import NATIVE_SIZE, Scene, paint, sample_scene

# N images, c colors, H W pixels.

# About the error that a denoiser leaves at its last level, in standard deviations of the latents.
LATENT_NOISE = 0.03


def build_vae(channels: list[int], latent_channels: int) -> AutoencoderKL:
    """An untrained autoencoder: 8 pixels per latent cell, no attention, one block per level."""
    return AutoencoderKL(
        block_out_channels=channels,
        down_block_types=["DownEncoderBlock2D"] * len(channels),
        up_block_types=["UpDecoderBlock2D"] * len(channels),
        layers_per_block=1,
        norm_num_groups=8,
        mid_block_add_attention=False,
        latent_channels=latent_channels,
        sample_size=NATIVE_SIZE,
    )


def pixels_of(scenes: Sequence[Scene]) -> Tensor:
    """Scenes as input of the VAE: (N, 3, 128, 128) float32 in [-1, 1]."""
    pixels = np.stack([paint(scene) for scene in scenes])
    return torch.from_numpy(pixels).permute(0, 3, 1, 2).float() / 127.5 - 1


def image_batch(seed: int, split: str, first: int, count: int) -> Tensor:
    """Scenes first..first+count-1 of a split, as from `pixels_of`."""
    return pixels_of([sample_scene(seed, split, first + number) for number in range(count)])


def _crops(images_NcHW: Tensor, count: int, side: int, generator: torch.Generator) -> Tensor:
    """`count` random square crops, spread evenly over the images."""
    last = images_NcHW.shape[-1] - side
    corners = torch.randint(0, last + 1, (count, 2), generator=generator).tolist()
    return torch.stack(
        [
            images_NcHW[number % len(images_NcHW), :, y : y + side, x : x + side]
            for number, (y, x) in enumerate(corners)
        ]
    )


def _edges(images_NcHW: Tensor) -> tuple[Tensor, Tensor]:
    return images_NcHW.diff(dim=-1), images_NcHW.diff(dim=-2)


def image_loss(decoded: Tensor, images: Tensor) -> tuple[Tensor, Tensor]:
    """(loss, squared error) of float32 images; the loss sums absolute, squared and edge errors."""
    error = decoded - images
    pairs = zip(_edges(decoded), _edges(images), strict=True)
    edge = torch.stack([(first - second).abs().mean() for first, second in pairs]).sum()
    square = error.square().mean()
    return error.abs().mean() + 4 * square + 0.5 * edge, square


def mean_psnr(decoded: Tensor, images: Tensor, counted: Tensor, *, max_db: float) -> Tensor:
    """The mean over images of the PSNR in dB, for float32 images in [-1, 1].

    It is a mean of each image's PSNR, not the PSNR of the joint error: in the joint error, errors
    of plain images, which are the most visible, would vanish next to those of textured images.

    Args:
        decoded: (N, 3, H, W).
        images: same shape, the true images.
        counted: (N, 1, H, W) bool; errors elsewhere are ignored.
        max_db: the PSNR of an image without an error.
    """
    square_N = ((decoded - images).square() * counted).mean((1, 2, 3))
    return (10 * torch.log10(4 / (square_N + 4 * 10 ** (-max_db / 10)))).mean()


def changed_pixels(before: Tensor, after: Tensor) -> Tensor:
    """The pixels that an edit changes, (N, 1, H, W) bool, of images as from `pixels_of`."""
    return (before - after).abs().amax(1, keepdim=True) > FAINT / 127.5


def loss_on_edits(
    decoded: Tensor, images: Tensor, changed: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """`image_loss` in which pixels that the edit must not change count three times.

    They count more because errors at a mask's edge cannot all be repaired.

    Args:
        decoded: (2N, 3, H, W); each edit has two images, N rows apart.
        images: same shape, the true images.
        changed: (N, 1, H, W) bool.

    Returns:
        (loss, squared error, squared error in the pixels that the edit must not change).
    """
    everywhere, mse = image_loss(decoded, images)
    kept = (~changed).repeat(2, 1, 1, 1)
    unchanged, kept_mse = image_loss(decoded * kept, images * kept)
    return everywhere + 2 * unchanged, mse, kept_mse


def train_vae(settings: dict[str, Any], folder: Path, *, device: str, resume: bool) -> None:
    """Trains on crops, in the last part of the budget on whole images; writes `folder`/model."""
    stage = StageSettings.from_mapping(settings)
    torch.manual_seed(stage.seed)
    vae = build_vae(settings["channels"], settings["latent_channels"]).to(device)
    rank, world = worker()
    share = stage.batch_size // world

    def losses_at(step: int, fraction: float, generator: torch.Generator) -> dict[str, Tensor]:
        whole = fraction > settings["whole_pictures_after"]
        first = (step * world + rank) * share
        images = image_batch(stage.seed, "train", first, share // 4 if whole else share // 2)
        if not whole:
            images = _crops(images, share, settings["crop"], generator)
        images = images.to(device_of(vae))
        latents = vae.encode(images).latent_dist
        noise = torch.randn(latents.mean.shape, generator=generator).to(images.device)
        decoded = vae.decode(latents.mean + latents.std * noise).sample.float()
        kl = 0.5 * (latents.mean**2 + latents.var - 1 - latents.logvar).float().mean()
        loss, square = image_loss(decoded, images)
        return {"loss": loss + settings["kl_weight"] * kl, "mse": square, "kl": kl}

    train(vae, losses_at, stage, folder, resume=resume, after_checkpoint=partial(show_psnr, vae))
    if rank == 0:
        finish_vae(vae, folder, seed=stage.seed)


def finish_vae(vae: AutoencoderKL, folder: Path, *, seed: int) -> None:
    """Centers the latents, sets the scaling factor, and saves `folder`/model."""
    center_latents(vae, image_batch(seed, "train", 0, 256))
    vae.save_pretrained(folder / "model", safe_serialization=True)
    mean, worst = reconstruction_psnr(vae, 128)
    print(
        f"held-out PSNR {mean:.2f} dB, worst image {worst:.2f} dB, "
        f"scaling factor {vae.config.scaling_factor}"
    )


@torch.no_grad()
def encode_means(vae: AutoencoderKL, images_NcHW: Tensor) -> Tensor:
    """The means of the unscaled latents: (N, C, h, w) float32."""
    vae.eval()
    parts = [
        vae.encode(part.to(device_of(vae))).latent_dist.mean.float().cpu()
        for part in torch.split(images_NcHW, 32)
    ]
    return torch.cat(parts)


@torch.no_grad()
def center_latents(vae: AutoencoderKL, images_NcHW: Tensor) -> None:
    """Gives every latent channel mean 0 and a common spread; sets the scaling factor to 1 / spread.

    Stable Diffusion pipelines have a scaling factor, but no shift. So the shift is folded into the
    two 1x1 convolutions next to the latents; decoded images stay the same.
    """
    latents = encode_means(vae, images_NcHW)
    mean_C, std_C = latents.mean((0, 2, 3)), latents.std((0, 2, 3))
    spread = std_C.mean()
    gain_C = (spread / std_C).to(device_of(vae))
    mean_C = mean_C.to(device_of(vae))
    channels = len(gain_C)
    into, out = vae.quant_conv, vae.post_quant_conv
    into.weight[:channels] *= gain_C[:, None, None, None]
    into.bias[:channels] = (into.bias[:channels] - mean_C) * gain_C
    into.bias[channels:] += 2 * gain_C.log()
    out.bias += out.weight[:, :, 0, 0] @ mean_C
    out.weight /= gain_C[None, :, None, None]
    vae.register_to_config(scaling_factor=round(1 / float(spread), 5))


@torch.no_grad()
def reconstruction_psnr(vae: AutoencoderKL, count: int) -> tuple[float, float]:
    """(mean, minimum) over held-out scenes of the PSNR in dB, with pixels rounded to uint8."""
    values = []
    for first in range(0, count, 16):
        images = image_batch(0, "heldout", first, min(16, count - first)).to(device_of(vae))
        decoded = vae.decode(vae.encode(images).latent_dist.mean).sample.float().clamp(-1, 1)
        error = torch.round((decoded + 1) * 127.5) - torch.round((images + 1) * 127.5)
        values.append(10 * torch.log10(255**2 / error.square().mean((1, 2, 3))))
    joined = torch.cat(values)
    return float(joined.mean()), float(joined.min())


def show_psnr(vae: AutoencoderKL, network: torch.nn.Module, step: int) -> None:
    """Prints the held-out PSNR of a VAE after a checkpoint; `network` is its trained part."""
    print(f"held-out PSNR at step {step}: {reconstruction_psnr(vae, 24)[0]:.2f} dB", flush=True)
