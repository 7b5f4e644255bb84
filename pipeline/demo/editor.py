"""Runs the pipeline's stages on batches of demo edits, whose ground truth is known."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pipeline.config.method import Method
from pipeline.config.model import Model
from pipeline.config.stages import Stage
from pipeline.demo.edits import Edit, mask_on_grid, true_mask
from pipeline.demo.world import paint
from pipeline.diffusion.ddim import ddim
from pipeline.diffusion.guidance import guided
from pipeline.diffusion.noise import draw_noise
from pipeline.models.autoencoder import ImageCoder
from pipeline.models.loading import LatentDiffusion, load_model
from pipeline.records.part import Edit as Row
from pipeline.records.part import Part, Sample, Status
from pipeline.stages.build import stage_class
from pipeline.stages.mask import MaskStage


def load_demo_model(folder: Path | str = "bundled", *, threads: int = 1) -> LatentDiffusion:
    """Load the bundled model, or a folder in the same format, on the CPU in float32."""
    model = Model(path=str(folder), dtype="float32")
    return load_model(model, "cpu", Stage(threads=threads, micro_batch=64))


def masked_part(
    model: LatentDiffusion, edits: Sequence[Edit], method: Method, *, seed: int
) -> Part:
    """A part with one row per edit, after the mask stage."""
    samples = [
        Sample(
            key=f"{number:05d}",
            caption=edit.caption,
            image=paint(edit.source),
            edits=[Row(index=0, edit_text=edit.edit_text)],
        )
        for number, edit in enumerate(edits)
    ]
    return MaskStage(model, method, seed)(Part("heldout", 0, 1, samples))


@dataclass(frozen=True)
class Outcome:
    """The result of an edit, before the pixel composite.

    `mask` is (h, w) bool on the latent grid. `image` is (H, W, 3) uint8. If the mask is empty,
    `edited` is false and `image` is the input.
    """

    mask: NDArray[np.bool_]
    image: NDArray[np.uint8]
    edited: bool


def outcomes(model: LatentDiffusion, part: Part, method: Method, *, seed: int) -> list[Outcome]:
    """Encode and decode a part that has its masks.

    The part itself is not changed, so that several methods and ratios can share its masks.

    Raises:
        RuntimeError: an edit failed.
    """
    done = copy.deepcopy(part)
    for name in ("encode", "decode"):
        done = stage_class(method, name)(model, method, seed)(done)
    results = []
    for sample in done.samples:
        row = sample.edits[0]
        image = sample.image if row.image is None else row.image
        if row.status is Status.FAILED or row.mask is None or image is None:
            raise RuntimeError(f"{sample.key}: {row.stage}: {row.error}: {row.message}")
        results.append(Outcome(row.mask > 0, image, row.image is not None))
    return results


class _LatentPassThrough(ImageCoder):
    """Returns latents in place of decoded images."""

    def decode_each(self, latents: Tensor) -> list[np.ndarray | None]:
        return list(latents.float().cpu().numpy())


def edited_latents(
    model: LatentDiffusion, part: Part, method: Method, *, seed: int
) -> list[NDArray[np.float32] | None]:
    """The latents that `outcomes` decodes: (C, h, w) for each edit, None if its mask is empty."""
    coder = _LatentPassThrough(model.image_coder.vae, model.micro_batch, model.image_coder.family)
    done = outcomes(replace(model, image_coder=coder), part, method, seed=seed)
    return [np.asarray(item.image, np.float32) if item.edited else None for item in done]


@torch.inference_mode()
def generate(
    model: LatentDiffusion, texts: Sequence[str], *, guidance_scale: float, steps: int, seed: int
) -> NDArray[np.uint8]:
    """Generate images from texts alone: (N, H, W, 3) uint8."""
    scale, side = model.info.latent_scale, model.info.native_size
    shape = (len(texts), model.info.latent_channels, side // scale, side // scale)
    denoise = guided(
        model.denoiser,
        model.text.encode(texts),
        model.text.encode([""] * len(texts)),
        torch.full((len(texts),), guidance_scale),
    )
    levels = model.schedule.levels(steps)[::-1]
    return model.image_coder.decode(ddim(denoise, draw_noise(seed, shape), levels))


@torch.inference_mode()
def perfect_edits(model: LatentDiffusion, edits: Sequence[Edit]) -> NDArray[np.uint8]:
    """Target latents inside the true cells, source latents outside, decoded: (N, H, W, 3).

    They show what an editor loses that replaces exactly the true cells. The decoder reads
    neighboring cells, and cells outside the mask contain a little of the old object and the edge
    of its shadow.
    """
    cells_N1hw = torch.tensor(np.stack([mask_on_grid(true_mask(edit)) for edit in edits]))[:, None]
    before = model.image_coder.encode([paint(edit.source) for edit in edits])
    after = model.image_coder.encode([paint(edit.target) for edit in edits])
    return model.image_coder.decode(torch.where(cells_N1hw, after, before))


@torch.inference_mode()
def through_vae(model: LatentDiffusion, images: Sequence[NDArray[np.uint8]]) -> NDArray[np.uint8]:
    """Encode and decode images with the VAE: (N, H, W, 3)."""
    return model.image_coder.decode(model.image_coder.encode(list(images)))
