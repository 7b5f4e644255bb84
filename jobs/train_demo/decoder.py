"""Stage `decoder`: teach the VAE's decoder what latents edits leave behind.

The cells at a mask's edge hold object and background, and a denoiser paints neither exactly. What
it lost of a regular background the neighbouring cells still tell, but a decoder that has only seen
true latents takes every value at its word. The encoder stays as it is, so latents and UNet do too.

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
from pipeline.config.method import Mask, Method
from pipeline.demo.editor import edited_latents, load_demo_model, masked_part
from pipeline.demo.world import paint

_BATCH = 48


def drawn_method(settings: dict[str, Any], number: int) -> Method:
    """DiffEdit with few steps, its other settings drawn from the lists of the stage's section."""
    draw = random.Random(number).choice
    return Method(
        steps=settings["ddim_steps"],
        encode_ratio=draw(settings["encode_ratios"]),
        guidance_scale=draw(settings["guidance_scales"]),
        mask=Mask(num_noises=settings["num_noises"], threshold=draw(settings["thresholds"])),
    )


def edit_training_scenes(settings: dict[str, Any], folder: Path) -> None:
    """Write edited.npy (N, 3, C, h, w) float16: what `folder`/model makes of training edits.

    The masks are its own, with all that they miss. An edit whose mask is empty leaves its input.
    Workers take every world-th batch of one shared file.
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
    """Make edits with `folder`/model, train the decoder on them; write decoder/model, model/vae.

    Half of a batch are edited latents, to be decoded to the true image after the edit; half are
    those of whole images, so that the VAE stays as good as it was.
    """
    stage = StageSettings.from_mapping(settings)
    if not (resume and (folder / "edited.npy").exists()):
        edit_training_scenes(settings, folder)
    torch.manual_seed(stage.seed)
    vae = AutoencoderKL.from_pretrained(folder / "joins" / "model", torch_dtype=torch.float32)
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
        # As many of scenes before edits as of scenes after them.
        first_N = (torch.arange(share) % 2 == 0)[:, None, None, None]
        edited, old, new = stored[rows_N].float().unbind(1)
        seen = torch.cat([edited, torch.where(first_N, old, new)])
        whole = torch.where(first_N.to(device), before, after)
        wanted = torch.cat([after, whole])
        noise = torch.randn(seen.shape, generator=generator) * LATENT_NOISE
        unscaled = (seen + noise).to(device) / vae.config.scaling_factor
        decoded = vae.decode(unscaled).sample.float()
        # Whole images have their kept part counted again too: they are the measure.
        loss, _, kept_mse = loss_on_edits(decoded, wanted, changed)
        mse = (decoded[share:] - whole).square().mean()
        return {"loss": loss, "mse": mse, "kept_mse": kept_mse}

    show = partial(show_psnr, vae)
    train(decoder, losses_at, stage, folder / "decoder", resume=resume, after_checkpoint=show)
    if rank == 0:
        for target in (folder / "decoder" / "model", folder / "model" / "vae"):
            vae.save_pretrained(target, safe_serialization=True)
        print(f"held-out PSNR {reconstruction_psnr(vae, 128)[0]:.2f} dB")
