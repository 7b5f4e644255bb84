"""Stage `decoder`: trains the VAE's decoder on latents after edits.

Cells at a mask's edge hold both object and background, and a denoiser draws neither exactly. The
lost part of a regular background can be told from neighboring cells, but a decoder that has only
seen true latents trusts every value. The encoder is not trained, so latents and UNet stay valid.

# N edits, C latent channels, h w latent grid; 3 = (edited, before, after).
"""

from __future__ import annotations

import random
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import AutoencoderKL
from torch import Tensor, nn

from jobs.train_demo.latents import training_edit
from jobs.train_demo.loop import train, wait_for_workers, worker
from jobs.train_demo.progress import StageSettings
from jobs.train_demo.vae import (
    LATENT_NOISE,
    changed_pixels,
    loss_on_edits,
    pixels_of,
    reconstruction_psnr,
    show_psnr,
)
from pipeline.config.mask import Mask
from pipeline.config.method import Method
from pipeline.demo.editor import edited_latents, load_demo_model, masked_part
from pipeline.demo.world import paint

_BATCH = 48


def drawn_method(settings: dict[str, Any], number: int) -> Method:
    """DiffEdit with few steps; its other settings are drawn from lists in the stage's section."""
    draw = random.Random(number).choice
    return Method(
        steps=settings["ddim_steps"],
        encode_ratio=draw(settings["encode_ratios"]),
        guidance_scale=draw(settings["guidance_scales"]),
        mask=Mask(num_noises=settings["num_noises"], threshold=draw(settings["thresholds"])),
    )


def edit_training_scenes(settings: dict[str, Any], folder: Path) -> None:
    """Writes edited.npy (N, 3, C, h, w) float16: training edits made by `folder`/model.

    The model infers the masks itself, with their errors. If a mask is empty, the edit is its input.
    The workers share the file; each takes every world-th batch.
    """
    model = load_demo_model(folder / "model")
    rank, world = worker()
    count, path = settings["edits"], folder / "edited.partial.npy"
    if rank == 0:
        shape = (count, 3, model.info.latent_channels, 16, 16)
        np.lib.format.open_memmap(path, "w+", np.float16, shape)
    wait_for_workers()
    written = np.load(path, mmap_mode="r+")
    for first in range(rank * _BATCH, count, world * _BATCH):
        numbers = range(first, min(first + _BATCH, count))
        edits = [training_edit(settings["seed"], number) for number in numbers]
        method = drawn_method(settings, first)
        part = masked_part(model, edits, method, seed=first)
        edited = edited_latents(model, part, method, seed=first)
        before = np.stack([np.asarray(image.latent) for image in part.samples])
        with torch.inference_mode():
            after = model.image_coder.encode([paint(edit.target) for edit in edits]).numpy()
        pairs = zip(edited, before, strict=True)
        made = np.stack([old if new is None else new for new, old in pairs])
        written[first : numbers.stop] = np.stack([made, before, after], axis=1)
        if rank == 0:
            print(f"edited {numbers.stop} of {count}", flush=True)
    written.flush()
    wait_for_workers()
    if rank == 0:
        path.rename(folder / "edited.npy")
    wait_for_workers()


def train_decoder(settings: dict[str, Any], folder: Path, *, device: str, resume: bool) -> None:
    """Makes edits with `folder`/model, trains on them; writes decoder/model and model/vae.

    Half of a batch are latents after an edit, with the true image as target; the other half are
    latents of whole images, so that the VAE does not get worse on these.
    """
    stage = StageSettings.from_mapping(settings)
    if not (resume and (folder / "edited.npy").exists()):
        edit_training_scenes(settings, folder)
    torch.manual_seed(stage.seed)
    vae = AutoencoderKL.from_pretrained(
        folder / "joins" / "model", torch_dtype=torch.float32, trust_remote_code=False
    )
    vae.to(device)
    decoder = nn.ModuleList([vae.decoder, vae.post_quant_conv])
    stored = torch.from_numpy(np.load(folder / "edited.npy"))
    rank, world = worker()
    share = stage.batch_size // world

    def losses_at(step: int, fraction: float, generator: torch.Generator) -> dict[str, Tensor]:
        rows_N = torch.randint(len(stored), (share,), generator=generator)
        edits = [training_edit(stage.seed, number) for number in rows_N.tolist()]
        before = pixels_of([edit.source for edit in edits]).to(device)
        after = pixels_of([edit.target for edit in edits]).to(device)
        changed = changed_pixels(before, after)
        # Of the whole images, half are scenes before edits, half are scenes after edits.
        first_N = (torch.arange(share) % 2 == 0)[:, None, None, None]
        edited, old, new = stored[rows_N].float().unbind(1)
        seen = torch.cat([edited, torch.where(first_N, old, new)])
        whole = torch.where(first_N.to(device), before, after)
        wanted = torch.cat([after, whole])
        noise = torch.randn(seen.shape, generator=generator) * LATENT_NOISE
        unscaled = (seen + noise).to(device) / vae.config.scaling_factor
        decoded = vae.decode(unscaled).sample.float()
        # For whole images too, pixels that the edit does not change count three times.
        loss, _, kept_mse = loss_on_edits(decoded, wanted, changed)
        mse = (decoded[share:] - whole).square().mean()
        return {"loss": loss, "mse": mse, "kept_mse": kept_mse}

    show = partial(show_psnr, vae)
    train(decoder, losses_at, stage, folder / "decoder", resume=resume, after_checkpoint=show)
    if rank == 0:
        for target in (folder / "decoder" / "model", folder / "model" / "vae"):
            vae.save_pretrained(target, safe_serialization=True)
        print(f"held-out PSNR {reconstruction_psnr(vae, 128)[0]:.2f} dB")
