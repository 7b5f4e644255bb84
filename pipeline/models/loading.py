"""From a probed folder to loaded networks: safetensors only, no remote code, nothing drawn."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from transformers import CLIPTextModel, CLIPTokenizer

from pipeline.diffusion.denoiser import Denoiser
from pipeline.diffusion.schedule import Schedule
from pipeline.models.autoencoder import PictureCoder
from pipeline.models.network import UNetDenoiser, in_micro_batches
from pipeline.models.probe import ModelInfo, probe_model, read_json, weights_variant
from pipeline.models.text import TextEncoder
from pipeline.words.config import Model, Stage

DTYPES = {
    "float32": torch.float32,
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
}


@dataclass(frozen=True)
class LatentDiffusion:
    """The loaded parts of a text-to-image model, ready for a stage.

    Attributes:
        info: what is known of it without its weights.
        device: where it lies.
        dtype: of weights, activations, and of what travels between stages.
        schedule: its noise schedule.
        unbatched: the network as it is.
        denoiser: the same, called with any number of rows: micro-batches are its own business.
    """

    info: ModelInfo
    device: torch.device
    dtype: torch.dtype
    schedule: Schedule
    unbatched: Denoiser
    denoiser: Denoiser
    text: TextEncoder
    pictures: PictureCoder

    def with_micro_batch(self, size: int) -> LatentDiffusion:
        """The same networks, called with another number of rows at a time."""
        return replace(
            self,
            denoiser=in_micro_batches(self.unbatched, size),
            text=TextEncoder(self.text.tokenizer, self.text.encoder, size),
            pictures=PictureCoder(self.pictures.vae, size),
        )


def load_model(model: Model, device: str, stage: Stage) -> LatentDiffusion:
    """Loads a model for one actor, and sets what this process computes with.

    Args:
        model: the configuration's section.
        device: "cpu" or "cuda".
        stage: its threads (on a CPU) and micro-batch.

    Raises:
        FileNotFoundError, ValueError: see ``probe_model``.
    """
    if device == "cpu":
        torch.set_num_threads(stage.threads)
    info = probe_model(model)
    dtype = DTYPES[model.dtype]

    def load(kind: Any, name: str) -> Any:
        folder = info.folder / name
        network = kind.from_pretrained(
            folder,
            variant=weights_variant(folder, model.path),
            use_safetensors=True,
            torch_dtype=dtype,
        )
        return network.to(device).eval().requires_grad_(False)

    unet = load(UNet2DConditionModel, "unet").to(memory_format=torch.channels_last)
    vae = load(AutoencoderKL, "vae").to(memory_format=torch.channels_last)
    tokenizer = CLIPTokenizer.from_pretrained(Path(info.folder) / "tokenizer")
    denoiser = UNetDenoiser(unet, info.prediction_type)
    return LatentDiffusion(
        info=info,
        device=torch.device(device),
        dtype=dtype,
        schedule=Schedule.from_config(read_json(info.folder / "scheduler/scheduler_config.json")),
        unbatched=denoiser,
        denoiser=in_micro_batches(denoiser, stage.micro_batch),
        text=TextEncoder(tokenizer, load(CLIPTextModel, "text_encoder"), stage.micro_batch),
        pictures=PictureCoder(vae, stage.micro_batch),
    )
