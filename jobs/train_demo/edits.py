"""Stage `edits`: train parts of the UNet on the images that come of its own edits.

Stage `unet` asks about one noise level at a time, and counts errors in latents. What an edit is
judged by are pixels, after as many calls of the network as it takes, and the latents that these
begin with are not drawn but encoded: all of the old image can be told from them, outlines to a
fraction of a pixel. So here DiffEdit is run as it is, its masks given, and the gradient passes from
the decoded image through the whole of decoding. The VAE stays as it is.

# N edits, C latent channels, h w latent grid, H W pixels, L tokens.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL
from torch import Tensor, nn

from jobs.train_demo.latents import CachedPairs, training_edit
from jobs.train_demo.loop import train, worker
from jobs.train_demo.progress import StageSettings
from jobs.train_demo.unet import (
    TextToNoise,
    build_scheduler,
    changed_cells,
    load_networks,
    noise_losses,
    save_pipeline,
)
from jobs.train_demo.vae import changed_pixels, image_loss, mean_psnr, pixels_of
from pipeline.demo.edits import KINDS
from pipeline.diffusion.ddim import ddim
from pipeline.diffusion.denoiser import Denoise
from pipeline.diffusion.latents import blend
from pipeline.diffusion.masks import dilated
from pipeline.diffusion.schedule import Level, Schedule
from pipeline.diffusion.solvers import encode_trajectory

# What falls short of it is lost: 8 bits hold no more.
_MOST_DB = 53.0
# Those that leave the background alone, which their figures are about.
_LOCAL = tuple(KINDS.index(kind) for kind in ("color", "shape", "object"))


@dataclass(frozen=True)
class Asked:
    """Edits to be made.

    Attributes:
        rows_N: of the pairs of images.
        side_N: 1 where the pair's second image is wanted, 0 where its first.
        same_N: bool, where the wanted image is the one that is there.
        before: (N, C, h, w), what is there.
        ids: (N, L), the text.
        inside: (N, 1, h, w) of 0 and 1, the mask.
    """

    rows_N: Tensor
    side_N: Tensor
    same_N: Tensor
    before: Tensor
    ids: Tensor
    inside: Tensor


def draw_edits(
    pairs: CachedPairs, settings: dict[str, Any], count: int, generator: torch.Generator
) -> Asked:
    """Random edits, with masks that are tight or loose, and many that are grown by a cell.

    Some ask for nothing: the text is the image's own or empty, and it is to come back.
    """

    def some(probability: float) -> Tensor:
        return torch.rand(count, generator=generator) < probability

    rows_N, side_N = (
        torch.randint(high, (count,), generator=generator) for high in (len(pairs.latents), 2)
    )
    # The kinds take turns among the pairs.
    kinds_N = torch.tensor(_LOCAL)[torch.randint(len(_LOCAL), (count,), generator=generator)]
    turns_N = rows_N % (len(pairs.latents) // len(KINDS))
    rows_N = torch.where(some(settings["local"]), len(KINDS) * turns_N + kinds_N, rows_N)
    after, other = (pairs.latents[rows_N, side].float() for side in (side_N, 1 - side_N))
    ids = pairs.texts(rows_N, side_N, generator)
    same_N = some(settings["unchanged"])
    before = torch.where(same_N[:, None, None, None], after, other)
    ids[same_N & some(0.5)] = pairs.empty_L
    inside = changed_cells(other, after, generator).float()
    larger = torch.stack([dilated(mask, 1) for mask in inside[:, 0]])[:, None]
    inside = torch.where(some(settings["grown"])[:, None, None, None], larger, inside)
    return Asked(rows_N, side_N, same_N, before, ids, inside)


def edited_latents(
    network: TextToNoise, asked: Asked, empty_L: Tensor, levels: list[Level]
) -> Tensor:
    """DiffEdit's steps 2 and 3: (N, C, h, w). Gradients pass through step 3 alone."""
    count = len(asked.ids)

    def denoiser(ids_NL: Tensor) -> Denoise:
        words = network.text_encoder(ids_NL)[0]

        def denoise(latents: Tensor, level: Level) -> Tensor:
            timesteps_N = torch.full((count,), int(level.timestep), device=latents.device)
            return network.after_reading(latents, timesteps_N, words)

        return denoise

    with torch.no_grad():
        encoded = encode_trajectory(denoiser(empty_L.expand(count, -1)), asked.before, levels)

    def masked(latents: Tensor, reached: Level) -> Tensor:
        return blend(latents, encoded[:, reached.index], asked.inside)

    return ddim(denoiser(asked.ids), encoded[:, -1], levels[::-1], masked)


def pixels_asked_for(asked: Asked, seed: int) -> tuple[Tensor, Tensor]:
    """The images wanted (N, 3, H, W) in [-1, 1], and what no edit may change (N, 1, H, W) bool.

    Args:
        seed: of stage `latents`, which drew the pairs.
    """
    edits = [training_edit(seed, row) for row in asked.rows_N.tolist()]
    both = zip(edits, asked.side_N.tolist(), strict=True)
    scenes = [(edit.source, edit.target)[:: 1 if side else -1] for edit, side in both]
    other, after = (pixels_of([pair[number] for pair in scenes]) for number in (0, 1))
    before = torch.where(asked.same_N[:, None, None, None], after, other)
    return after, ~changed_pixels(before, after)


def train_on_edits(settings: dict[str, Any], folder: Path, *, device: str, resume: bool) -> None:
    """Train parts of the UNet of `start_from`, or of `folder`/model; write `folder`/model.

    `settings` has besides the loop's own and those of `draw_edits`: what a dB is worth beside
    `picture_loss`, `edited_db` of what no edit may change, `changed_db` of the rest (without it
    objects shrink: what is too small spoils no background); `noisy` images as in stage `unet`, by
    whose settings, and their weight in the loss, lest it forget how to paint and to find masks.
    """
    stage = StageSettings.from_mapping(settings)
    pairs = CachedPairs.load(folder)
    start = Path(settings.get("start_from", folder / "model"))
    network = load_networks(start).to(device)
    vae = AutoencoderKL.from_pretrained(start / "vae", torch_dtype=torch.float32).to(device)
    for frozen in (network, vae):
        frozen.requires_grad_(False)
    trained = nn.ModuleList(
        [network.unet.get_submodule(name) for name in settings["trained_modules"]]
    ).requires_grad_(True)
    schedule = Schedule.from_config(build_scheduler().config)
    rank, world = worker()
    share = stage.batch_size // world
    empty_L = pairs.empty_L.to(device)

    def losses_at(step: int, fraction: float, generator: torch.Generator) -> dict[str, Tensor]:
        draw = random.Random(step).choice  # the same for all workers, who wait for each other
        levels = schedule.levels(draw(settings["ddim_steps"]), draw(settings["encode_ratios"]))
        drawn = draw_edits(pairs, settings, share, generator)
        after, kept = (part.to(device) for part in pixels_asked_for(drawn, settings["pairs_seed"]))
        asked = Asked(*(part.to(device) for part in vars(drawn).values()))
        latents = edited_latents(network, asked, empty_L, levels)
        decoded = vae.decode(latents / vae.config.scaling_factor).sample.float()
        edited_db = mean_psnr(decoded, after, kept, most=_MOST_DB)
        changed_db = mean_psnr(decoded, after, ~kept, most=_MOST_DB)
        noisy = settings["noisy"] // world
        plain = noise_losses(network, pairs, settings, noisy, generator, late=True)
        lost_db = settings["edited_db"] * (_MOST_DB - edited_db)
        lost_db = lost_db + settings["changed_db"] * (_MOST_DB - changed_db)
        loss = image_loss(decoded, after)[0] + lost_db + settings["noise_weight"] * plain["loss"]
        return {
            "loss": loss,
            "edited_db": edited_db,
            "changed_db": changed_db,
            "mse": plain["mse"],
        }

    def snapshot(_: nn.Module, step: int) -> None:
        save_pipeline(network, vae, folder, folder / "snapshot")

    train(trained, losses_at, stage, folder / "edits", resume=resume, after_checkpoint=snapshot)
    if rank == 0:
        save_pipeline(network, vae, folder, folder / "model")
