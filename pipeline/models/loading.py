"""Loads the networks of a probed model: safetensors only, no remote code, no random weights."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass, replace
from typing import Any, Literal

import diffusers
import torch
from diffusers.utils.logging import disable_progress_bar as hide_bars_of_diffusers
from transformers.utils.logging import disable_progress_bar as hide_bars_of_transformers

from pipeline.config.method import Reuse
from pipeline.config.model import Model
from pipeline.config.stages import Stage
from pipeline.diffusion.denoiser import Denoiser, TrainableDenoiser
from pipeline.diffusion.schedule import Level, NoiseSchedule
from pipeline.models.autoencoder import VAE_HALVES, ImageCoder
from pipeline.models.compiled import compile_network
from pipeline.models.components import Loader
from pipeline.models.device import device_kind, make_deterministic, memory_format_for, set_tf32
from pipeline.models.families import family_named
from pipeline.models.feature_reuse import denoiser_for
from pipeline.models.fused_lora import fuse_loras
from pipeline.models.micro_batch import MicroBatch, release_memory
from pipeline.models.model_info import ModelInfo
from pipeline.models.network import NetworkDenoiser, in_micro_batches
from pipeline.models.precision import resolved_dtype
from pipeline.models.probe import load_schedule, probe_model
from pipeline.models.text import EmptyText, TextEncoder
from pipeline.models.text_pipeline import load_text, text_pipeline

DTYPES = {
    "float32": torch.float32,
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
}
Texts = Literal["all", "empty"]  # that an actor embeds


@dataclass(frozen=True)
class LatentDiffusion:
    """The loaded networks of a text-to-image model, ready for a stage.

    Attributes:
        info: what ``probe_model`` found out.
        device: where the networks are.
        dtype: of weights and activations, and of the tensors that stages pass on.
        schedule: the noise schedule.
        unbatched: the network without micro-batches; fitting trains this one.
        denoiser: the same network for any number of rows; it splits them into micro-batches.
        micro_batch: how many rows denoiser and text encoder take per call.
        vae_micro_batch: how many images the VAE takes per call.
    """

    info: ModelInfo
    device: torch.device
    dtype: torch.dtype
    schedule: NoiseSchedule
    unbatched: TrainableDenoiser
    denoiser: Denoiser
    text: TextEncoder
    image_coder: ImageCoder
    micro_batch: MicroBatch
    vae_micro_batch: MicroBatch

    @property
    def micro_batches(self) -> tuple[MicroBatch, ...]:
        """Those of all networks."""
        return self.micro_batch, self.vae_micro_batch

    @property
    def device_kind(self) -> str:
        """The device's name in a marker: "cpu" or a GPU's name."""
        return device_kind(self.device)

    def denoiser_from(self, first: Level, settings: Reuse) -> Denoiser:
        """The denoiser for one loop over levels, with feature reuse if the settings ask for it.

        Args:
            first: the loop's first level.
            settings: ``method.reuse``.
        """
        return denoiser_for(self.denoiser, self.unbatched, self.micro_batch, settings, first)

    def with_micro_batch(self, size: int, vae_size: int | None = None) -> LatentDiffusion:
        """The same networks with another micro-batch size; None: the VAE's is the same."""
        micro_batch, vae_micro_batch = _micro_batches(size, vae_size, self.micro_batch.static)
        return replace(
            self,
            denoiser=in_micro_batches(self.unbatched, micro_batch),
            text=self.text.with_micro_batch(micro_batch),
            image_coder=self.image_coder.with_micro_batch(vae_micro_batch),
            micro_batch=micro_batch,
            vae_micro_batch=vae_micro_batch,
        )


def load_model(
    model: Model,
    device: str,
    stage: Stage,
    vae_halves: Collection[str] = VAE_HALVES,
    micro_batches: Collection[int] = (),
    texts: Texts = "all",
) -> LatentDiffusion:
    """Loads a model for one actor; sets determinism and threads for this process.

    Args:
        model: the configuration's section.
        device: "cpu" or "cuda".
        stage: gives the number of threads (on a CPU) and the micro-batch size.
        vae_halves: encoder, decoder, both or neither; other halves are dropped.
        micro_batches: all sizes that the actor's stages use, for which a compiled network warms up;
            none: that of ``stage``.
        texts: "empty" keeps the embedding of the empty text and drops the text encoders, before
            the network is loaded unless LoRAs are to be fused into both.

    Raises:
        FileNotFoundError, ValueError: see ``probe_model``; also if a file with a pinned revision is
            replaced while it is loaded. The files of a hub model are downloaded if they are not
            cached.
    """
    make_deterministic()
    hide_bars_of_diffusers()  # a bar for every file would flood the job's output
    hide_bars_of_transformers()
    if device == "cpu":
        torch.set_num_threads(stage.num_threads)
    chosen = resolved_dtype(model.dtype, device)  # a run has chosen already
    model, dtype = model.model_copy(update={"dtype": chosen}), DTYPES[chosen]
    info = probe_model(model, hash_files=False, fetch=True)

    load = Loader(info, model, device, dtype)
    schedule = load_schedule(info, info.size_for(model))
    compiled = model.compile != "off"
    family = family_named(info.family)
    micro_batch, vae_micro_batch = _micro_batches(
        stage.micro_batch, model.vae_micro_batch, compiled
    )
    with set_tf32(model.tf32):  # the empty text may be embedded
        network, text = _network_and_text(info, load, micro_batch, texts)
    family.prepare(network)
    if family.is_convolutional:
        network.to(memory_format=memory_format_for(device, dtype, compiled=compiled))
    compile_network(network, model)
    cleanest = schedule.level_at(0.0).sigma
    denoiser = NetworkDenoiser(family, network, info.prediction_type, cleanest, info.latent_scale)
    loaded = LatentDiffusion(
        info=info,
        device=torch.device(device),
        dtype=dtype,
        schedule=schedule,
        unbatched=denoiser,
        denoiser=in_micro_batches(denoiser, micro_batch),
        text=text,
        image_coder=ImageCoder(load.vae(vae_halves), vae_micro_batch, family),
        micro_batch=micro_batch,
        vae_micro_batch=vae_micro_batch,
    )
    probe_model(model, hash_files=False)  # again: a file may have been replaced since it was hashed
    if compiled:
        scale = info.latent_scale
        listed = info.sizes_for(model).listed
        grids = [(height // scale, width // scale) for width, height in listed]
        with set_tf32(model.tf32):  # with another setting the stages would compile anew
            warm_up(loaded, micro_batches or (stage.micro_batch,), grids)
    return loaded


def _network_and_text(
    info: ModelInfo, load: Loader, micro_batch: MicroBatch, texts: Texts
) -> tuple[Any, TextEncoder]:
    """The network, and the text encoders or what stays of them; LoRAs are fused into both.

    Encoders that do not stay go before the network comes: an actor then never holds both.
    """
    text = load_text(info, load, micro_batch)
    if texts == "empty" and not info.loras:
        text = EmptyText.of(text)
        release_memory()
    folder, network_class = family_named(info.family).network
    network = load(getattr(diffusers, network_class), folder)
    if info.loras:
        fuse_loras(text_pipeline(info, text.towers, network), folder, info.loras)
        if texts == "empty":
            text = EmptyText.of(text)
            release_memory()
    return network, text


def _micro_batches(size: int, vae_size: int | None, static: bool) -> tuple[MicroBatch, MicroBatch]:
    """The network's and the VAE's."""
    vae = MicroBatch(vae_size or size, static=static, name="vae_micro_batch")
    return MicroBatch(size, static=static), vae


@torch.inference_mode()
def warm_up(
    model: LatentDiffusion, micro_batches: Collection[int], grids: Iterable[tuple[int, int]]
) -> None:
    """Calls the network with every shape that a part can give it, so that no part compiles.

    Args:
        model: with a compiled network.
        micro_batches: the sizes that its stages use.
        grids: (h, w) of the latents, in cells.
    """
    level = model.schedule.level_at(0.5)
    for grid in grids:
        called: set[int] = set()
        for size in sorted(micro_batches, reverse=True):
            sized = model.with_micro_batch(size)
            for num_rows in sized.micro_batch.row_counts:
                if num_rows in called:
                    continue
                called.add(num_rows)
                shape = num_rows, model.info.latent_channels, *grid
                condition = sized.text.encode([""] * num_rows)
                sized.denoiser(torch.zeros(shape, device=model.device), level, condition)
