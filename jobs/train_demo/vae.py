"""Stage `vae`: train the demo model's autoencoder on painted scenes, then centre its latents."""

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

# In standard deviations of the latents: about what a denoiser leaves at its last level.
LATENT_NOISE = 0.03


def build_vae(channels: list[int], latent_channels: int) -> AutoencoderKL:
    """An untrained autoencoder: 8 pixels a latent cell, no attention, one block a level."""
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
    """Scenes as the VAE takes them: (N, 3, 128, 128) float32 in [-1, 1]."""
    pixels = np.stack([paint(scene) for scene in scenes])
    return torch.from_numpy(pixels).permute(0, 3, 1, 2).float() / 127.5 - 1


def image_batch(seed: int, split: str, first: int, count: int) -> Tensor:
    """Scenes first..first+count-1 of a split, as `pixels_of` gives them."""
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
    """Absolute, squared and edge errors of float32 images, weighted: (loss, squared error)."""
    error = decoded - images
    pairs = zip(_edges(decoded), _edges(images), strict=True)
    edge = torch.stack([(first - second).abs().mean() for first, second in pairs]).sum()
    square = error.square().mean()
    return error.abs().mean() + 4 * square + 0.5 * edge, square


def mean_psnr(decoded: Tensor, images: Tensor, counted: Tensor, *, most: float) -> Tensor:
    """The mean PSNR in dB of float32 images in [-1, 1], errors outside `counted` being none.

    Of images, not of their joined error: in that the plain ones, whose few errors are seen best,
    would vanish beside the textured ones.

    Args:
        decoded: (N, 3, H, W).
        images: same shape, what they should be.
        counted: (N, 1, H, W) bool.
        most: what an image without an error counts as.
    """
    square_N = ((decoded - images).square() * counted).mean((1, 2, 3))
    return (10 * torch.log10(4 / (square_N + 4 * 10 ** (-most / 10)))).mean()


def changed_pixels(before: Tensor, after: Tensor) -> Tensor:
    """What an edit changes of images as `pixels_of` gives them: (N, 1, H, W) bool."""
    return (before - after).abs().amax(1, keepdim=True) > FAINT / 127.5


def loss_on_edits(
    decoded: Tensor, images: Tensor, changed: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """`picture_loss` in which what no edit may change counts thrice.

    A rim that a mask missed cannot all be mended.

    Args:
        decoded: (2N, 3, H, W); each edit has two images, N rows apart.
        images: same shape, what they should be.
        changed: (N, 1, H, W) bool.

    Returns:
        (loss, squared error, that of what no edit changes).
    """
    everywhere, mse = image_loss(decoded, images)
    kept = (~changed).repeat(2, 1, 1, 1)
    beside, kept_mse = image_loss(decoded * kept, images * kept)
    return everywhere + 2 * beside, mse, kept_mse


def train_vae(settings: dict[str, Any], folder: Path, *, device: str, resume: bool) -> None:
    """Train on crops, the last part of the budget on whole images; write `folder`/model."""
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
    """Centre the latents, set the scaling factor, save as `folder`/model."""
    center_latents(vae, image_batch(seed, "train", 0, 256))
    vae.save_pretrained(folder / "model", safe_serialization=True)
    mean, worst = reconstruction_psnr(vae, 128)
    print(
        f"held-out PSNR {mean:.2f} dB, worst image {worst:.2f} dB, "
        f"scaling factor {vae.config.scaling_factor}"
    )


@torch.no_grad()
def encode_means(vae: AutoencoderKL, images_NcHW: Tensor) -> Tensor:
    """The means of the latents, without scaling: (N, C, h, w) float32."""
    vae.eval()
    parts = [
        vae.encode(part.to(device_of(vae))).latent_dist.mean.float().cpu()
        for part in images_NcHW.split(32)
    ]
    return torch.cat(parts)


@torch.no_grad()
def center_latents(vae: AutoencoderKL, images_NcHW: Tensor) -> None:
    """Give every latent channel mean 0 and one common spread; set the scaling factor to 1 / spread.

    Folded into the two 1x1 convolutions beside the latents, so the decoded image is unchanged:
    Stable Diffusion pipelines know a scaling factor, but no shift.
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
    """PSNR in dB over held-out scenes, pixels rounded to uint8: (mean over images, worst)."""
    values = []
    for first in range(0, count, 16):
        images = image_batch(0, "heldout", first, min(16, count - first)).to(device_of(vae))
        decoded = vae.decode(vae.encode(images).latent_dist.mean).sample.float().clamp(-1, 1)
        error = torch.round((decoded + 1) * 127.5) - torch.round((images + 1) * 127.5)
        values.append(10 * torch.log10(255**2 / error.square().mean((1, 2, 3))))
    joined = torch.cat(values)
    return float(joined.mean()), float(joined.min())


def show_psnr(vae: AutoencoderKL, network: torch.nn.Module, step: int) -> None:
    """For `train` after a checkpoint: the held-out PSNR of a VAE of which `network` is trained."""
    print(f"held-out PSNR at step {step}: {reconstruction_psnr(vae, 24)[0]:.2f} dB", flush=True)
