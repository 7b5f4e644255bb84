"""What every family's tests compare with the family's own pipeline of diffusers."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import DiffusionPipeline, FluxPipeline
from torch import Tensor

from pipeline.config.model import Model
from pipeline.config.stages import Stage
from pipeline.diffusion.ddim import ddim
from pipeline.diffusion.flow_schedule import SMALLEST_ALPHA
from pipeline.diffusion.guidance import guided
from pipeline.diffusion.solver import Solver
from pipeline.models.loading import LatentDiffusion, load_model

TEXTS = ["a red dog on the circle", "", "a cat", "dog " * 600, "日本語 🐕"]
SIDE, STEPS = 32, 50
RELATIVE = 1e-4


def loaded(folder: Path, **settings: Any) -> tuple[LatentDiffusion, Any]:
    """The model, and its own pipeline."""
    pipeline = DiffusionPipeline.from_pretrained(folder)
    pipeline.set_progress_bar_config(disable=True)
    return load_model(Model(path=str(folder), size=SIDE, **settings), "cpu", Stage()), pipeline


def same_rows(found: list[Tensor], wanted: list[Tensor]) -> bool:
    """Whether texts have equal tokens, bit for bit, each without its padding."""
    pairs = zip(found, wanted, strict=True)
    return all(torch.equal(one, other) for one, other in pairs)


def start_of(model: LatentDiffusion) -> tuple[Tensor, float]:
    """A noise, and the share to start from: in flow matching pure noise is the least exact."""
    cells = SIDE // model.info.latent_scale
    shape = (1, model.info.latent_channels, cells, cells)
    noise = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    highest = model.schedule.levels(STEPS)[-1]
    return noise, highest.sigma if highest.alpha == SMALLEST_ALPHA else 1.0


def decoded(model: LatentDiffusion, text: str, scale: float, solver: Solver = ddim) -> Tensor:
    """Text to image from ``start_of``, with guidance against the empty text: latents."""
    noise, share = start_of(model)
    with torch.inference_mode():
        condition, empty = model.text.encode([text]), model.text.encode([""])
        denoise = guided(model.denoiser, condition, empty, torch.tensor([scale]))
        return solver(denoise, share * noise, model.schedule.levels(STEPS)[::-1])


def difference(found: Tensor, wanted: Tensor) -> float:
    """The largest difference, relative to the largest value."""
    return float((found - wanted).abs().max() / wanted.abs().max())


def scaled(pipeline: Any, mode: Tensor) -> Tensor:
    """The latents of most families: scale and shift."""
    config = pipeline.vae.config
    return (mode - (config.shift_factor or 0.0)) * config.scaling_factor


def check_vae(
    model: LatentDiffusion,
    pipeline: Any,
    latents_of: Callable[[Any, Tensor], Tensor] = scaled,
    *,
    is_of_videos: bool = False,
) -> None:
    """Latents and images are those of the pipeline's own VAE, to a level of color."""
    image = np.random.default_rng(0).integers(0, 256, (SIDE, SIDE, 3), dtype=np.uint8)
    pixels = torch.from_numpy(image).permute(2, 0, 1)[None] / 127.5 - 1.0
    with torch.inference_mode():
        encoded = pipeline.vae.encode(pixels.unsqueeze(2) if is_of_videos else pixels)
        mode = encoded.latent_dist.mode() if hasattr(encoded, "latent_dist") else encoded.latent
        latents = model.image_coder.encode([image])
        images = pipeline.vae.decode(mode, return_dict=False)[0]
    if is_of_videos:
        images = images[:, :, 0]
    assert difference(latents, latents_of(pipeline, mode)) < 1e-5
    shown = pipeline.image_processor.postprocess(images, output_type="np")[0]
    found = model.image_coder.decode(latents)[0].astype(np.float32)
    assert np.abs(found - 255.0 * shown).max() < 0.51


def check_half(model: LatentDiffusion, tolerance: float) -> None:
    """In bfloat16 the network's answer is close to that in float32, and the image is finite."""
    half = load_model(
        Model(path=str(model.info.folder), size=SIDE, dtype="bfloat16"), "cpu", Stage()
    )
    latent, _ = start_of(model)
    with torch.inference_mode():
        level = model.schedule.level_at(0.5)
        full, other = (
            each.denoiser(latent, level, each.text.encode(["a cat"])) for each in (model, half)
        )
        half.image_coder.decode(latent)
    assert other.dtype == torch.float32
    assert float((other - full).norm() / full.norm()) < 8.0 * tolerance


def check_decode(
    model: Any,
    pipeline: Any,
    scale: float,
    *,
    is_packed: bool = False,
    solver: Solver = ddim,
    other: str = "a cat",
    **call: Any,
) -> None:
    """A decode of the same noise is that of the pipeline; another text gives another latent.

    Args:
        model: ours.
        pipeline: the family's own.
        scale: our guidance scale.
        solver: ours for the pipeline's scheduler.
        other: the other text.
        is_packed: whether the pipeline's latents are tokens of 2 x 2 cells; else our layout.
        call: what the pipeline is asked besides, such as its own guidance scale.
    """
    noise, _ = start_of(model)
    wanted = pipeline(
        "a red dog",
        height=SIDE,
        width=SIDE,
        latents=FluxPipeline._pack_latents(noise, *noise.shape) if is_packed else noise,
        num_inference_steps=STEPS,
        output_type="latent",
        **call,
    ).images
    if is_packed:
        wanted = FluxPipeline._unpack_latents(wanted, SIDE, SIDE, model.info.latent_scale)
    assert difference(decoded(model, "a red dog", scale, solver), wanted) <= RELATIVE
    assert (
        difference(decoded(model, other, scale, solver), wanted) > 20 * RELATIVE
    )  # so texts matter
