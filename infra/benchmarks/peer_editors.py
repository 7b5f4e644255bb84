"""The actors of the script beside Overpaint: a diffusers pipeline for each method, in batches.

Imagic's pipeline is a community file that is not in diffusers' package. ``ImagicEditor`` is the
paper's loop (arXiv:2210.09276), written with diffusers' networks and scheduler.
"""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from diffusers import (
    DDIMInverseScheduler,
    DDIMScheduler,
    StableDiffusionDiffEditPipeline,
    StableDiffusionImg2ImgPipeline,
    StableDiffusionPipeline,
)
from PIL import Image
from torch import Tensor
from torch.nn import functional

Batch = dict[str, Any]


@dataclass(frozen=True)
class Settings:
    """What an editor is made with.

    Attributes:
        model: a folder in diffusers' format.
        device, dtype: of the networks; dtype is the name of torch's.
        threads: of torch on a CPU.
        compiled: compile the network with torch.compile.
        steps, guidance_scale: of the sampler.
        ratio: share of the schedule that is noised (SDEdit) or inverted (DiffEdit).
        noises: DiffEdit: of a mask.
        embedding_steps, model_steps, embedding_learning_rate, model_learning_rate: Imagic's fits.
        interp_eta: Imagic: 1 is the edit text's embedding.
    """

    model: str
    device: str = "cpu"
    dtype: str = "float32"
    threads: int = 1
    compiled: bool = False
    steps: int = 50
    guidance_scale: float = 7.5
    ratio: float = 0.5
    noises: int = 10
    embedding_steps: int = 1000
    model_steps: int = 1500
    embedding_learning_rate: float = 2e-3
    model_learning_rate: float = 5e-7
    interp_eta: float = 0.7


class Editor:
    """A pipeline of diffusers; a batch's images become edited ones, in column ``edited``."""

    pipeline_class: Any

    def __init__(self, **settings: Any) -> None:
        self.settings = Settings(**settings)
        torch.set_num_threads(self.settings.threads)
        self.pipeline = self.pipeline_class.from_pretrained(
            self.settings.model,
            torch_dtype=getattr(torch, self.settings.dtype),
            use_safetensors=True,
            trust_remote_code=False,
            **self._parts(),
        ).to(self.settings.device)
        self.pipeline.scheduler = DDIMScheduler.from_config(self.pipeline.scheduler.config)
        self.pipeline.set_progress_bar_config(disable=True)
        if self.settings.compiled:
            mode = "reduce-overhead" if self.settings.device == "cuda" else None
            self.pipeline.unet = torch.compile(self.pipeline.unet, mode=mode, dynamic=False)

    def __call__(self, batch: Batch) -> Batch:
        images = [Image.fromarray(pixels) for pixels in batch.pop("image")]
        edited = self.edit(images, list(batch.pop("caption")), list(batch["text"]))
        pixels = np.stack([np.asarray(image) for image in edited])
        return batch | {"edited": pixels, "at": np.full(len(images), time.time())}

    def edit(
        self, images: list[Image.Image], captions: list[str], texts: list[str]
    ) -> Iterable[Image.Image]:
        """The edited images, in order."""
        raise NotImplementedError

    def _parts(self) -> dict[str, Any]:
        """Arguments of ``from_pretrained``."""
        return {
            "safety_checker": None,
            "feature_extractor": None,
            "requires_safety_checker": False,
        }

    @property
    def _sampler(self) -> dict[str, Any]:
        settings = self.settings
        return {
            "num_inference_steps": settings.steps,
            "guidance_scale": settings.guidance_scale,
            "generator": torch.Generator(settings.device).manual_seed(0),
        }


class SdEditor(Editor):
    """``StableDiffusionImg2ImgPipeline``: a whole batch in one call."""

    pipeline_class = StableDiffusionImg2ImgPipeline

    def edit(
        self, images: list[Image.Image], captions: list[str], texts: list[str]
    ) -> Iterable[Image.Image]:
        done = self.pipeline(
            prompt=texts, image=images, strength=self.settings.ratio, **self._sampler
        )
        return list(done.images)


class DiffEditor(Editor):
    """``StableDiffusionDiffEditPipeline``: masks one by one, inversion and decoding in batches.

    A mask is 4 x ``noises`` rows already, and in a batch diffusers scales it by its neighbours.
    """

    pipeline_class = StableDiffusionDiffEditPipeline

    def edit(
        self, images: list[Image.Image], captions: list[str], texts: list[str]
    ) -> Iterable[Image.Image]:
        ratio = {"inpaint_strength": self.settings.ratio}
        masks = [
            self.pipeline.generate_mask(
                image=image,
                source_prompt=caption,
                target_prompt=text,
                num_maps_per_mask=self.settings.noises,
                **self._sampler,
            )
            for image, caption, text in zip(images, captions, texts, strict=True)
        ]
        latents = self.pipeline.invert(prompt=captions, image=images, **ratio, **self._sampler)
        done = self.pipeline(
            prompt=texts,
            mask_image=np.concatenate(masks),
            image_latents=latents.latents,
            **ratio,
            **self._sampler,
        )
        return list(done.images)

    def _parts(self) -> dict[str, Any]:
        inverse = DDIMInverseScheduler.from_pretrained(
            self.settings.model, subfolder="scheduler", trust_remote_code=False
        )
        return super()._parts() | {"inverse_scheduler": inverse}


class ImagicEditor(Editor):
    """The paper's three steps, one edit after the other, since each fits all weights anew."""

    pipeline_class = StableDiffusionPipeline

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        self.weights = [weight.detach().clone() for weight in self.pipeline.unet.parameters()]

    def edit(
        self, images: list[Image.Image], captions: list[str], texts: list[str]
    ) -> Iterable[Image.Image]:
        return [self._edit(image, text) for image, text in zip(images, texts, strict=True)]

    def _edit(self, image: Image.Image, text: str) -> Image.Image:
        settings, pipeline = self.settings, self.pipeline
        latent = self._latent(image)
        with torch.no_grad():
            target, _ = pipeline.encode_prompt(text, settings.device, 1, False)
        fitted = target.clone().requires_grad_()
        weights = list(pipeline.unet.parameters())
        self._fit(
            [fitted], settings.embedding_learning_rate, settings.embedding_steps, latent, fitted
        )
        fitted = fitted.detach()
        self._fit(weights, settings.model_learning_rate, settings.model_steps, latent, fitted)
        mixed = torch.lerp(fitted, target, settings.interp_eta)
        done = pipeline(
            prompt_embeds=mixed, height=image.height, width=image.width, **self._sampler
        )
        with torch.no_grad():
            for weight, before in zip(weights, self.weights, strict=True):
                weight.copy_(before)
        return done.images[0]  # type: ignore[no-any-return]

    @torch.no_grad()
    def _latent(self, image: Image.Image) -> Tensor:
        pixels = self.pipeline.image_processor.preprocess(image)
        vae = self.pipeline.vae
        encoded = vae.encode(pixels.to(vae.device, vae.dtype)).latent_dist.sample()
        return encoded * vae.config.scaling_factor  # type: ignore[no-any-return]

    def _fit(
        self, fitted: list[Tensor], learning_rate: float, steps: int, latent: Tensor, text: Tensor
    ) -> None:
        """Fits an embedding or the network to the image: the loss of its training."""
        scheduler = self.pipeline.scheduler
        optimizer = torch.optim.Adam(fitted, lr=learning_rate)
        for parameter in self.pipeline.unet.parameters():
            parameter.requires_grad_(parameter is fitted[0] or len(fitted) > 1)
        for _ in range(steps):
            noise = torch.randn_like(latent)
            timestep = torch.randint(0, scheduler.config.num_train_timesteps, (1,))
            timestep = timestep.to(latent.device)
            noisy = scheduler.add_noise(latent, noise, timestep)
            predicted = self.pipeline.unet(noisy, timestep, encoder_hidden_states=text).sample
            loss = functional.mse_loss(predicted.float(), noise.float())
            loss.backward()  # type: ignore[no-untyped-call] # torch's own types
            optimizer.step()
            optimizer.zero_grad()
