"""The baseline: diffusers' own DiffEdit, in a loop over images as in its documentation."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from diffusers import DDIMInverseScheduler, DDIMScheduler, StableDiffusionDiffEditPipeline
from PIL import Image

from jobs.benchmark.loops import Clock, Timing
from jobs.benchmark.machine import memory_peak_bytes, reset_memory_peak
from jobs.benchmark.work import BenchmarkSample
from pipeline.config.method import Method
from pipeline.models.loading import DTYPES


class DiffusersLoop:
    """``StableDiffusionDiffEditPipeline``: generate_mask, invert, __call__, one edit at a time.

    As in its documentation's example: DDIM and its inverse, the caption and the edit text as
    prompts, guidance in all three calls, and its own defaults except for what ``method`` sets. An
    edit costs 200 network evaluations; the paper counts 140.
    """

    def __init__(
        self, folder: Path, device: str, dtype: str, method: Method, compiled: bool = False
    ) -> None:
        """
        Args:
            folder: the same model that Overpaint is measured with.
            device: "cpu" or "cuda".
            dtype: a key of ``DTYPES``.
            method: steps, encode_ratio, guidance_scale and mask.num_noises are used.
            compiled: compile the UNet with torch.compile, as diffusers' page on speed advises.
        """
        self.method, self.device = method, device
        self.pipeline = StableDiffusionDiffEditPipeline.from_pretrained(
            folder,
            torch_dtype=DTYPES[dtype],
            use_safetensors=True,
            safety_checker=None,
            feature_extractor=None,
            requires_safety_checker=False,
            inverse_scheduler=DDIMInverseScheduler.from_pretrained(
                folder, subfolder="scheduler", trust_remote_code=False
            ),
            trust_remote_code=False,
        ).to(device)
        self.pipeline.scheduler = DDIMScheduler.from_config(self.pipeline.scheduler.config)
        self.pipeline.set_progress_bar_config(disable=True)
        if compiled:
            mode = "reduce-overhead" if device == "cuda" else None
            # one compilation per shape, as Overpaint does: code for dynamic shapes is slower
            self.pipeline.unet = torch.compile(self.pipeline.unet, mode=mode, dynamic=False)

    def run(self, samples: list[BenchmarkSample]) -> Timing:
        """Edits every text of every image, one after the other."""
        reset_memory_peak(self.device)
        clock = Clock()
        with _torch_defaults():
            for sample in samples:
                image = Image.fromarray(sample.image)
                for text in sample.edit_texts:
                    self._edit(image, sample.caption, text)
        seconds, cpu_seconds = clock.read()  # all images are on the CPU by now
        edits = sum(len(sample.edit_texts) for sample in samples)
        peak = memory_peak_bytes(self.device)
        return Timing(seconds, edits, cpu_seconds, {"edited": edits}, memory_peak_bytes=peak)

    def _edit(self, image: Image.Image, caption: str, edit_text: str) -> None:
        method = self.method
        common = {
            "num_inference_steps": method.steps,
            "guidance_scale": method.guidance_scale,
            "generator": torch.Generator(self.device).manual_seed(0),
        }
        mask = self.pipeline.generate_mask(
            image=image,
            source_prompt=caption,
            target_prompt=edit_text,
            num_maps_per_mask=method.mask.num_noises,
            **common,
        )
        ratio = {"inpaint_strength": method.encode_ratio}
        latents = self.pipeline.invert(prompt=caption, image=image, **ratio, **common).latents
        self.pipeline(prompt=edit_text, mask_image=mask, image_latents=latents, **ratio, **common)


@contextmanager
def _torch_defaults() -> Iterator[None]:
    """Restores torch's default switches; Overpaint changes some to get equal bytes."""
    deterministic = torch.are_deterministic_algorithms_enabled()
    tf32 = torch.backends.cudnn.allow_tf32
    torch.use_deterministic_algorithms(False)
    torch.backends.cudnn.allow_tf32 = True
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(deterministic)
        torch.backends.cudnn.allow_tf32 = tf32
