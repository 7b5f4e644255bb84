"""From a probed folder to loaded networks: safetensors only, no remote code, nothing drawn."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, replace
from typing import Any

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from transformers import CLIPTextModel, CLIPTokenizer
from transformers.utils.logging import disable_progress_bar

from pipeline.diffusion.denoiser import Denoiser, TrainableDenoiser
from pipeline.diffusion.schedule import Schedule
from pipeline.models.autoencoder import PictureCoder
from pipeline.models.device import device_kind, make_deterministic
from pipeline.models.micro_batch import MicroBatch
from pipeline.models.network import UNetDenoiser, in_micro_batches
from pipeline.models.probe import ModelInfo, probe_model, read_json, weights_variant
from pipeline.models.text import TextEncoder
from pipeline.words.config import Model, Stage

DTYPES = {
    "float32": torch.float32,
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
}
VAE_HALVES = ("encoder", "decoder")


@dataclass(frozen=True)
class LatentDiffusion:
    """The loaded parts of a text-to-image model, ready for a stage.

    Attributes:
        info: what is known of it without its weights.
        device: where it lies.
        dtype: of weights, activations, and of what travels between stages.
        schedule: its noise schedule.
        unbatched: the network as it is, and as it is fitted.
        denoiser: the same, called with any number of rows: micro-batches are its own business.
        micro_batch: how many rows denoiser, text encoder and VAE take at once.
    """

    info: ModelInfo
    device: torch.device
    dtype: torch.dtype
    schedule: Schedule
    unbatched: TrainableDenoiser
    denoiser: Denoiser
    text: TextEncoder
    pictures: PictureCoder
    micro_batch: MicroBatch

    @property
    def device_kind(self) -> str:
        """What a marker calls the device: "cpu" or a GPU's name."""
        return device_kind(self.device)

    def with_micro_batch(self, size: int) -> LatentDiffusion:
        """The same networks, called with another number of rows at a time."""
        micro_batch = MicroBatch(size)
        return replace(
            self,
            denoiser=in_micro_batches(self.unbatched, micro_batch),
            text=TextEncoder(self.text.tokenizer, self.text.encoder, micro_batch),
            pictures=PictureCoder(self.pictures.vae, micro_batch),
            micro_batch=micro_batch,
        )


def load_model(
    model: Model, device: str, stage: Stage, vae_halves: Collection[str] = VAE_HALVES
) -> LatentDiffusion:
    """Loads a model for one actor, and sets what this process computes with.

    Args:
        model: the configuration's section.
        device: "cpu" or "cuda".
        stage: its threads (on a CPU) and micro-batch.
        vae_halves: encoder, decoder, both or neither; a half that no stage needs is not kept.

    Raises:
        FileNotFoundError, ValueError: see ``probe_model``.
    """
    make_deterministic()
    disable_progress_bar()  # one bar a file is no news to whoever runs a job
    if device == "cpu":
        torch.set_num_threads(stage.threads)
    info = probe_model(model, hash_files=False)
    dtype = DTYPES[model.dtype]

    def load(kind: Any, name: str, dtype: torch.dtype = dtype) -> Any:
        folder = info.folder / name
        network = kind.from_pretrained(
            folder,
            variant=weights_variant(folder, model.path),
            use_safetensors=True,
            local_files_only=True,
            torch_dtype=dtype,
        )
        return network.to(device).eval().requires_grad_(False)

    unet = load(UNet2DConditionModel, "unet").to(memory_format=torch.channels_last)
    vae = load(AutoencoderKL, "vae", _vae_dtype(info, dtype)).to(memory_format=torch.channels_last)
    _keep_halves(vae, vae_halves)
    tokenizer = CLIPTokenizer.from_pretrained(info.folder / "tokenizer", local_files_only=True)
    schedule = Schedule.from_config(read_json(info.folder / "scheduler/scheduler_config.json"))
    micro_batch = MicroBatch(stage.micro_batch)
    denoiser = UNetDenoiser(unet, info.prediction_type, schedule.level_at(0.0).sigma)
    return LatentDiffusion(
        info=info,
        device=torch.device(device),
        dtype=dtype,
        schedule=schedule,
        unbatched=denoiser,
        denoiser=in_micro_batches(denoiser, micro_batch),
        text=TextEncoder(tokenizer, load(CLIPTextModel, "text_encoder"), micro_batch),
        pictures=PictureCoder(vae, micro_batch),
        micro_batch=micro_batch,
    )


def _vae_dtype(info: ModelInfo, dtype: torch.dtype) -> torch.dtype:
    """SDXL's VAE overflows in float16, and its config says so."""
    upcast = read_json(info.folder / "vae/config.json").get("force_upcast", False)
    return torch.float32 if upcast and dtype == torch.float16 else dtype


def _keep_halves(vae: Any, halves: Collection[str]) -> None:
    if "encoder" not in halves:
        vae.encoder = vae.quant_conv = None
    if "decoder" not in halves:
        vae.decoder = vae.post_quant_conv = None
