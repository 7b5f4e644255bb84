"""Stable Diffusion 1.x and 2.x: one CLIP, whose last hidden states are the condition."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pipeline.models.family_facts import Text
from pipeline.models.unet_family import UNetFamily

if TYPE_CHECKING:
    from pipeline.diffusion.denoiser import Condition


class StableDiffusion(UNetFamily):
    """The UNet knows positions only from its convolutions, so a box looks like a whole image."""

    name = "stable-diffusion"
    pipelines = (
        "StableDiffusionPipeline",
        "StableDiffusionImg2ImgPipeline",
        "StableDiffusionDiffEditPipeline",
    )
    pipeline_options = {"requires_safety_checker": False}  # noqa: RUF012  # read only
    texts = (Text("CLIPTextModel", "CLIPTokenizer"),)
    upcasts_vae = False  # this VAE does not overflow in float16
    decodes_boxes = True

    def condition(self, pipeline: Any, texts: list[str], device: Any) -> Condition:
        from pipeline.diffusion.denoiser import Condition

        tokens, _ = pipeline.encode_prompt(texts, device, 1, do_classifier_free_guidance=False)
        return Condition(tokens.float())


FAMILY = StableDiffusion()
