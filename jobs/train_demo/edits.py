"""Stage `edits`: trains parts of the UNet on the images of its own edits.

Stage `unet` trains on one noise level at a time, with errors in latents. But an edit is judged by
its pixels, after many evaluations of the network, and it starts from encoded latents, which still
contain the old image, with outlines to a fraction of a pixel. So this stage runs DiffEdit with
given masks, and the gradient flows from the decoded image back through all decoding steps. The VAE
is not trained.

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

# The PSNR limit of the loss: 8-bit images cannot show more.
_MAX_DB = 53.0
# Kinds of edits that do not change the background.
_LOCAL = tuple(KINDS.index(kind) for kind in ("color", "shape", "object"))


@dataclass(frozen=True)
class EditBatch:
    """Edits to train on.

    Attributes:
        rows_N: the pair of images of each edit.
        side_N: the wanted image of the pair: 0 (first) or 1 (second).
        same_N: bool, where the input is already the wanted image.
        before: (N, C, h, w), latents of the input images.
        ids: (N, L), tokens of the edit texts.
        inside: (N, 1, h, w) of 0 and 1, the masks; 1 = edit.
    """

    rows_N: Tensor
    side_N: Tensor
    same_N: Tensor
    before: Tensor
    ids: Tensor
    inside: Tensor


def draw_edits(
    pairs: CachedPairs, settings: dict[str, Any], count: int, generator: torch.Generator
) -> EditBatch:
    """Random edits. Their masks are tight or loose, and many are grown by a cell.

    In some edits nothing must change: the text is the input's own caption or empty.
    """

    def chosen(probability: float) -> Tensor:
        return torch.rand(count, generator=generator) < probability

    rows_N, side_N = (
        torch.randint(high, (count,), generator=generator) for high in (len(pairs.latents), 2)
    )
    # Pair i has the kind i % len(KINDS).
    kinds_N = torch.tensor(_LOCAL)[torch.randint(len(_LOCAL), (count,), generator=generator)]
    turns_N = rows_N % (len(pairs.latents) // len(KINDS))
    rows_N = torch.where(chosen(settings["local"]), len(KINDS) * turns_N + kinds_N, rows_N)
    after, other = (pairs.latents[rows_N, side].float() for side in (side_N, 1 - side_N))
    ids = pairs.texts(rows_N, side_N, generator)
    same_N = chosen(settings["unchanged"])
    before = torch.where(same_N[:, None, None, None], after, other)
    ids[same_N & chosen(0.5)] = pairs.empty_L
    inside = changed_cells(other, after, generator).float()
    larger = torch.stack([dilated(mask, 1) for mask in inside[:, 0]])[:, None]
    inside = torch.where(chosen(settings["grown"])[:, None, None, None], larger, inside)
    return EditBatch(rows_N, side_N, same_N, before, ids, inside)


def edited_latents(
    network: TextToNoise, batch: EditBatch, empty_L: Tensor, levels: list[Level]
) -> Tensor:
    """DiffEdit's steps 2 and 3: (N, C, h, w). Gradients flow through step 3 only."""
    count = len(batch.ids)

    def denoiser(ids_NL: Tensor) -> Denoise:
        text_states = network.text_encoder(ids_NL)[0]

        def denoise(latents: Tensor, level: Level) -> Tensor:
            timesteps_N = torch.full((count,), int(level.timestep), device=latents.device)
            return network.from_text_states(latents, timesteps_N, text_states)

        return denoise

    with torch.no_grad():
        encoded = encode_trajectory(denoiser(empty_L.expand(count, -1)), batch.before, levels)

    def masked(latents: Tensor, reached: Level) -> Tensor:
        return blend(latents, encoded[:, reached.index], batch.inside)

    return ddim(denoiser(batch.ids), encoded[:, -1], levels[::-1], masked)


def target_pixels(batch: EditBatch, seed: int) -> tuple[Tensor, Tensor]:
    """The wanted images (N, 3, H, W) in [-1, 1], and which pixels must not change (N, 1, H, W).

    Args:
        batch: the edits.
        seed: of stage `latents`, which drew the pairs.
    """
    edits = [training_edit(seed, row) for row in batch.rows_N.tolist()]
    both = zip(edits, batch.side_N.tolist(), strict=True)
    scenes = [(edit.source, edit.target)[:: 1 if side else -1] for edit, side in both]
    other, after = (pixels_of([pair[number] for pair in scenes]) for number in (0, 1))
    before = torch.where(batch.same_N[:, None, None, None], after, other)
    return after, ~changed_pixels(before, after)


def train_on_edits(settings: dict[str, Any], folder: Path, *, device: str, resume: bool) -> None:
    """Trains parts of the UNet of `start_from`, or of `folder`/model; writes `folder`/model.

    Args:
        settings: those of the loop and of `draw_edits`, and the weights in the loss:
            `edited_db` of a dB in pixels that must not change; `changed_db` of a dB in the others
            (without it objects shrink, since a small object spoils no background);
            `noise_weight` of `noisy` images that are trained on as in stage `unet`, so that the
            network still draws and finds masks. It has the settings of stage `unet` for these.
        folder: of the training run.
        device: "cpu" or "cuda".
        resume: continue from the stage's checkpoint.
    """
    stage = StageSettings.from_mapping(settings)
    pairs = CachedPairs.load(folder)
    start = Path(settings.get("start_from", folder / "model"))
    network = load_networks(start).to(device)
    vae = AutoencoderKL.from_pretrained(
        start / "vae", torch_dtype=torch.float32, trust_remote_code=False
    ).to(device)
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
        draw = random.Random(step).choice  # the same in all workers, since they wait for each other
        levels = schedule.levels(draw(settings["ddim_steps"]), draw(settings["encode_ratios"]))
        drawn = draw_edits(pairs, settings, share, generator)
        after, kept = (part.to(device) for part in target_pixels(drawn, settings["pairs_seed"]))
        batch = EditBatch(*(part.to(device) for part in vars(drawn).values()))
        latents = edited_latents(network, batch, empty_L, levels)
        decoded = vae.decode(latents / vae.config.scaling_factor).sample.float()
        edited_db = mean_psnr(decoded, after, kept, max_db=_MAX_DB)
        changed_db = mean_psnr(decoded, after, ~kept, max_db=_MAX_DB)
        noisy = settings["noisy"] // world
        noise = noise_losses(network, pairs, settings, noisy, generator, late=True)
        lost_db = settings["edited_db"] * (_MAX_DB - edited_db)
        lost_db = lost_db + settings["changed_db"] * (_MAX_DB - changed_db)
        loss = image_loss(decoded, after)[0] + lost_db + settings["noise_weight"] * noise["loss"]
        return {
            "loss": loss,
            "edited_db": edited_db,
            "changed_db": changed_db,
            "mse": noise["mse"],
        }

    def snapshot(_: nn.Module, step: int) -> None:
        save_pipeline(network, vae, folder, folder / "snapshot")

    train(trained, losses_at, stage, folder / "edits", resume=resume, after_checkpoint=snapshot)
    if rank == 0:
        save_pipeline(network, vae, folder, folder / "model")
