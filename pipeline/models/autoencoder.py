"""The only place where pixels change range: uint8 pictures to latents and back."""

from __future__ import annotations

import numpy as np
import torch
from diffusers import AutoencoderKL
from torch import Tensor


class PictureCoder:
    """A VAE with its scaling: latents here are what the denoiser works on."""

    def __init__(self, vae: AutoencoderKL, micro_batch: int) -> None:
        self.vae = vae
        self.micro_batch = micro_batch
        self.scale = float(vae.config.scaling_factor)
        self.shift = float(getattr(vae.config, "shift_factor", None) or 0.0)

    def encode(self, images: list[np.ndarray]) -> Tensor:
        """Pictures to clean latents: the mode of the VAE's posterior, so that nothing is drawn.

        Args:
            images: N of (H, W, 3) uint8.

        Returns:
            (N, C, h, w) float32 on the VAE's device.
        """
        pixels = torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2)
        latents = []
        for chunk in pixels.split(self.micro_batch):
            scaled = chunk.to(self.vae.device, self.vae.dtype) / 127.5 - 1.0
            mode = self.vae.encode(scaled).latent_dist.mode().float()
            latents.append((mode - self.shift) * self.scale)
        return torch.cat(latents)

    def decode(self, latents: Tensor) -> np.ndarray:
        """Clean latents to pictures.

        Args:
            latents: (N, C, h, w) float32.

        Returns:
            (N, H, W, 3) uint8, values rounded to the nearest.
        """
        images = []
        for chunk in latents.split(self.micro_batch):
            unscaled = (chunk / self.scale + self.shift).to(self.vae.dtype)
            decoded = self.vae.decode(unscaled, return_dict=False)[0].float()
            pixels = ((decoded + 1.0) * 127.5).round().clamp(0.0, 255.0).to(torch.uint8)
            images.append(pixels.permute(0, 2, 3, 1).cpu().numpy())
        return np.concatenate(images)
