"""Stage `joins`: trains the VAE on joined latents of an image and of its edit.

A masked edit is decoded from cells of two images, which an autoencoder alone never sees. Without
this stage, cells next to an object also encoded the object, so that its color bled into the
background, and group norms carried the change to every pixel.

# N edits, c colors, H W pixels, h w latent grid.
"""

from __future__ import annotations

import copy
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL
from torch import Tensor, nn

from jobs.train_demo.latents import training_edit
from jobs.train_demo.loop import train, worker
from jobs.train_demo.progress import StageSettings
from jobs.train_demo.vae import (
    LATENT_NOISE,
    changed_pixels,
    loss_on_edits,
    pixels_of,
    reconstruction_psnr,
    show_psnr,
)

# A cell is taken from the edit if the edit changes at least a share of its pixels; the share is
# drawn for each edit between these two.
_SHARES = (0.005, 0.3)


def train_joins(settings: dict[str, Any], folder: Path, *, device: str, resume: bool) -> None:
    """Continues to train `folder`/vae/model; writes `folder`/joins/model.

    Args:
        settings: those of the loop, and two weights in the loss: `anchor`, of the distance of the
            latents from those of the first encoder; `local`, of the change in the latents of cells
            that an edit does not change.
        folder: of the training run.
        device: "cpu" or "cuda".
        resume: continue from the stage's checkpoint.
    """
    stage = StageSettings.from_mapping(settings)
    torch.manual_seed(stage.seed)
    vae = AutoencoderKL.from_pretrained(
        folder / "vae" / "model", torch_dtype=torch.float32, trust_remote_code=False
    )
    vae.to(device)
    scale = vae.config.scaling_factor
    first_encoder = copy.deepcopy(nn.ModuleList([vae.encoder, vae.quant_conv])).requires_grad_(
        False
    )
    rank, world = worker()
    share = stage.batch_size // world

    def losses_at(step: int, fraction: float, generator: torch.Generator) -> dict[str, Tensor]:
        # Whole images, since group norms learn other statistics on crops around objects.
        first = (step * world + rank) * share
        edits = [training_edit(stage.seed, first + number) for number in range(share)]
        before = pixels_of([edit.source for edit in edits]).to(device)
        after = pixels_of([edit.target for edit in edits]).to(device)
        changed = changed_pixels(before, after)
        low, high = _SHARES
        least = low + (high - low) * torch.rand(share, 1, 1, 1, generator=generator).to(device)
        cells = F.avg_pool2d(changed.float(), 8) >= least
        both = torch.cat([before, after])
        latents = vae.encode(both).latent_dist.mean.float()
        old, new = latents.chunk(2)
        noise = torch.randn(latents.shape, generator=generator).to(device) * LATENT_NOISE / scale
        decoded = vae.decode(torch.cat([old, torch.where(cells, new, old)]) + noise).sample.float()
        loss, mse, kept_mse = loss_on_edits(decoded, both, changed)
        with torch.no_grad():
            encoded = first_encoder[1](first_encoder[0](both)).float()
        moved = ((latents - encoded[:, : latents.shape[1]]) * scale).square().mean()
        outside = F.max_pool2d(changed.float(), 8) == 0
        leaked = (((new - old) * scale).square() * outside).mean()
        loss = loss + settings["anchor"] * moved + settings["local"] * leaked
        return {"loss": loss, "mse": mse, "kept_mse": kept_mse, "moved": moved, "leaked": leaked}

    train(
        vae,
        losses_at,
        stage,
        folder / "joins",
        resume=resume,
        after_checkpoint=partial(show_psnr, vae),
    )
    if rank == 0:
        vae.save_pretrained(folder / "joins" / "model", safe_serialization=True)
        print(f"held-out PSNR {reconstruction_psnr(vae, 128)[0]:.2f} dB")
