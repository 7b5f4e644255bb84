"""Stage `decoder`: teach the VAE's decoder to join latents of a picture and of its edit.

A masked edit is decoded from latents of two pictures, which an autoencoder never sees by itself:
the colour of the old object bled into the background around it, and group norms carried the change
to every pixel. Only the decoder learns here, so latents mean what they meant.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import AutoencoderKL
from torch import Tensor, nn

from jobs.train_demo_latents import changed_cells, training_edit
from jobs.train_demo_loop import device_of, train, worker
from jobs.train_demo_progress import StageSettings
from jobs.train_demo_vae import picture_loss, pixels_of, reconstruction_psnr

# In standard deviations of the latents: about what a denoiser leaves at its last level.
_LATENT_NOISE = 0.03
_TIGHTEST = 0.3  # masks that miss a rim of the object, but no more


def train_decoder(
    settings: dict[str, Any], latents: dict[str, Any], folder: Path, *, device: str, resume: bool
) -> None:
    """Train on pairs that `encode_latents` wrote; write `folder`/decoder/model.

    Args:
        settings: the stage's own.
        latents: those of the stage `latents`, whose seed says what the pairs show.
    """
    stage = StageSettings.from_mapping(settings)
    torch.manual_seed(stage.seed)
    vae = AutoencoderKL.from_pretrained(folder / "vae" / "model", torch_dtype=torch.float32)
    vae.to(device)
    decoder = nn.ModuleList([vae.decoder, vae.post_quant_conv])
    pairs = np.load(folder / "latents.npy", mmap_mode="r")
    rank, world = worker()
    share = stage.batch_size // world

    def losses_at(step: int, fraction: float, generator: torch.Generator) -> dict[str, Tensor]:
        rows = torch.randint(len(pairs), (share,), generator=generator).tolist()
        side = int(torch.randint(2, (), generator=generator))
        edits = [training_edit(latents["seed"], row) for row in rows]
        images = pixels_of([(edit.source, edit.target)[side] for edit in edits]).to(device)
        both = torch.from_numpy(pairs[rows]).float()
        wanted, other = both[:, side], both[:, 1 - side]
        joined = torch.where(changed_cells(other, wanted, _TIGHTEST, generator), wanted, other)
        # half of the batch is whole pictures, or reconstruction would be unlearnt
        joined[: share // 2] = wanted[: share // 2]
        joined += _LATENT_NOISE * torch.randn(joined.shape, generator=generator)
        decoded = vae.decode(joined.to(device) / vae.config.scaling_factor).sample.float()
        whole, whole_mse = picture_loss(decoded[: share // 2], images[: share // 2])
        edited, edited_mse = picture_loss(decoded[share // 2 :], images[share // 2 :])
        return {"loss": whole + edited, "mse": whole_mse, "joined_mse": edited_mse}

    def show(network: torch.nn.Module, step: int) -> None:
        print(f"held-out PSNR at step {step}: {reconstruction_psnr(vae, 24)[0]:.2f} dB", flush=True)

    train(decoder, losses_at, stage, folder / "decoder", resume=resume, after_checkpoint=show)
    if rank == 0:
        vae.save_pretrained(folder / "decoder" / "model", safe_serialization=True)
        print(f"held-out PSNR {reconstruction_psnr(vae, 128)[0]:.2f} dB on {device_of(vae)}")
