"""Loads the parts of a probed model, one at a time: text encoders, network, VAE."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

import diffusers
import torch
from diffusers import ModelMixin

from pipeline.config.model import Model
from pipeline.models.autoencoder import is_of_videos, keep_halves
from pipeline.models.cpu_kernels import use_onednn
from pipeline.models.families import family_named
from pipeline.models.family import Family
from pipeline.models.model_files import read_json
from pipeline.models.model_info import ModelInfo
from pipeline.models.weights import load_network


@dataclass(frozen=True)
class Loader:
    """Loads a part of a model: safetensors only, no remote code, no random weights.

    Attributes:
        info: of the probed model.
        model: the configuration's section.
        device: "cpu" or "cuda".
        dtype: of the weights, where nothing else is said.
    """

    info: ModelInfo
    model: Model
    device: str
    dtype: torch.dtype

    def __call__(self, kind: Any, name: str, dtype: torch.dtype | None = None) -> Any:
        """A network of a class of diffusers or transformers, by the name of its subfolder.

        Raises:
            WeightsError: see ``load_network``.
        """
        info, dtype = self.info, dtype or self.dtype
        folder = info.folder / name
        key, variant = f"model.path={self.model.path!r}", info.variants.get(name)
        if name == "vae" and info.vae is not None:
            folder, key = info.vae.folder, f"model.vae={self.model.vae!r}"
            variant = info.vae.variant
        network = load_network(kind, folder, key, variant=variant, torch_dtype=dtype)
        if isinstance(network, ModelMixin):
            # diffusers 0.42 looks only at the first tensor to decide whether to convert. The
            # transformer's first tensor is a float32 table, so the rest would stay float32 too.
            network.to(dtype)
        if self.device == "cpu" and dtype == torch.float32 and self.model.compile == "off":
            use_onednn(network)
        return network.to(self.device).eval().requires_grad_(False)

    def vae(self, halves: Collection[str]) -> Any:
        """The VAE; it works in tiles where an image may be too large for it.

        Args:
            halves: encoder, decoder, both or neither; the others are dropped.
        """
        info, limit = self.info, self.model.vae_tiling_above
        family = family_named(info.family)
        vae = self(getattr(diffusers, family.vae), "vae", vae_dtype(info, family, self.dtype))
        if not is_of_videos(vae):  # whose weights have no such format
            vae.to(memory_format=torch.channels_last)
        keep_halves(vae, halves)
        if limit is not None and info.sizes_for(self.model).largest > limit:
            vae.enable_tiling()  # tiles of the VAE's training size overlap, blended at the edges
        return vae


def vae_dtype(info: ModelInfo, family: Family, dtype: torch.dtype) -> torch.dtype:
    """The VAE's dtype: float32 instead of float16 where its config asks for it (SDXL's overflows).

    Without the key the VAE is upcast, as in diffusers, except in Stable Diffusion 1 and 2, whose
    VAE does not overflow.
    """
    config = read_json(info.vae_folder / "config.json")
    upcast = config.get("force_upcast", family.upcasts_vae)
    return torch.float32 if upcast and dtype == torch.float16 else dtype
