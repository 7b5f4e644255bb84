"""The only place where pixels change range: uint8 images to latents and back."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from pipeline.diffusion.transfer import Download, upload
from pipeline.models.family import Family
from pipeline.models.micro_batch import MicroBatch

VAE_HALVES = ("encoder", "decoder")


class ImageCoder:
    """A VAE with its scaling: its latents are in the denoiser's range."""

    def __init__(self, vae: Any, micro_batch: MicroBatch, family: Family) -> None:
        """
        Args:
            vae: on its device, in the dtype to compute in.
            micro_batch: how many images per call.
            family: says how this VAE is called, and how its latents are normalised.
        """
        self.vae = vae
        self.micro_batch = micro_batch
        self.family = family
        self.shift, self.scale = family.latent_range(vae)

    def with_micro_batch(self, micro_batch: MicroBatch) -> ImageCoder:
        """The same VAE with another micro-batch size."""
        return type(self)(self.vae, micro_batch, self.family)

    def encode(self, images: list[np.ndarray]) -> Tensor:
        """Encodes images to clean latents. Takes the posterior's mode, so no noise is drawn.

        Args:
            images: N of (H, W, 3) uint8.

        Returns:
            (N, C, h, w) float32 on the VAE's device.
        """
        pixels = torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2)

        def encode_rows(rows: slice) -> Tensor:
            # uploaded as uint8: a quarter of float32's size, and exact in every dtype
            scaled = upload(pixels[rows], self.vae.device).to(self.vae.dtype) / 127.5 - 1.0
            latents: Tensor = (
                self.family.encoded(self.vae, scaled).float() - self.shift
            ) * self.scale
            return latents

        return torch.cat(self.micro_batch.map(encode_rows, len(pixels)))

    def decode(self, latents: Tensor) -> np.ndarray:
        """Decodes clean latents to images.

        Args:
            latents: (N, C, h, w) float32.

        Returns:
            (N, H, W, 3) uint8, values rounded to the nearest.

        Raises:
            ValueError: a decoded value is not finite.
        """
        images = [image for image in self.decode_each(latents) if image is not None]
        if len(images) < len(latents):
            raise ValueError("the VAE gives an image that is not finite")
        return np.stack(images)

    def decode_each(self, latents: Tensor) -> list[np.ndarray | None]:
        """Like ``decode``, but returns None for an image with a value that is not finite.

        A VAE in half precision can overflow even on a finite latent. The images are rows of one
        array, so a part of them is handed on without a copy.
        """
        images: Tensor | None = None

        def decode_rows(rows: slice) -> tuple[Download, Download]:
            unscaled = (latents[rows] / self.scale + self.shift).to(self.vae.dtype)
            decoded = self.family.decoded(self.vae, unscaled).float()
            finite = decoded.isfinite().flatten(1).all(1)
            pixels = ((decoded + 1.0) * 127.5).round().clamp(0.0, 255.0).to(torch.uint8)
            pixels = pixels.permute(0, 2, 3, 1)
            nonlocal images
            if images is None:  # the first call tells their size
                shape = (len(latents), *pixels.shape[1:])
                images = torch.empty(shape, dtype=torch.uint8, pin_memory=pixels.is_cuda)
            return Download(pixels, images[rows]), Download(finite)

        good: list[bool] = []
        for pixels, finite in self.micro_batch.map(decode_rows, len(latents)):
            pixels.wait()
            good += finite.wait().tolist()
        assert images is not None, "there is at least one latent"
        return [image if ok else None for image, ok in zip(images.numpy(), good, strict=True)]


def keep_halves(vae: Any, halves: Collection[str]) -> None:
    """Drops the halves of a VAE that are not among ``halves``."""
    # at each call a VAE of videos counts the convolutions of both halves
    nothing = nn.Module() if is_of_videos(vae) else None
    if "encoder" not in halves:
        vae.encoder = vae.quant_conv = nothing
    if "decoder" not in halves:
        vae.decoder = vae.post_quant_conv = nothing


def is_of_videos(vae: Any) -> bool:
    return any(weight.ndim == 5 for weight in vae.parameters())
