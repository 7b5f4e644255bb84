"""SDXL: two CLIPs, and a UNet that is told the size of the image."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pipeline.models.family_facts import Json, Text, UnsupportedModelError
from pipeline.models.unet_family import UNetFamily

if TYPE_CHECKING:
    from torch import Tensor

    from pipeline.diffusion.denoiser import Condition


class StableDiffusionXL(UNetFamily):
    """Both CLIPs' second-to-last hidden states, and the second one's projection.

    Source: SDXL, arXiv:2307.01952, section 2.1.
    """

    name = "stable-diffusion-xl"
    pipelines = ("StableDiffusionXLPipeline", "StableDiffusionXLImg2ImgPipeline")
    pipeline_options = {"add_watermarker": False}  # noqa: RUF012  # read only
    texts = (
        Text("CLIPTextModel", "CLIPTokenizer"),
        Text("CLIPTextModelWithProjection", "CLIPTokenizer", "_2"),
    )
    zeros_for_empty = True
    added = "text_time"

    def check(self, index: Json, network: Json, vae: Json) -> None:
        if index.get("requires_aesthetics_score"):
            raise UnsupportedModelError("an SDXL refiner; allowed are base models")
        super().check(index, network, vae)

    def condition(self, pipeline: Any, texts: list[str], device: Any) -> Condition:
        from pipeline.diffusion.denoiser import Condition

        tokens, _, pooled, _ = pipeline.encode_prompt(
            texts, device=device, do_classifier_free_guidance=False
        )
        return Condition(tokens.float(), pooled.float())

    def added_conditions(
        self, latent: Tensor, condition: Condition, scale: int
    ) -> dict[str, Tensor] | None:
        """The pooled text embedding, and six numbers about the size.

        The numbers are original size, crop corner and target size. The original size is set to
        that of the prepared image, uncropped: a smaller one would ask for the blur of an enlarged
        image, which the prepared image may not have.

        Source: SDXL, arXiv:2307.01952, section 2.2, micro-conditioning.
        """
        import torch

        assert condition.pooled is not None, "this family's texts have a pooled embedding"
        height, width = (side * scale for side in latent.shape[-2:])
        # written on the device: the host would wait in every call until a list had been copied
        sizes = torch.zeros(6, dtype=torch.float32, device=latent.device)
        sizes[0::4], sizes[1::4] = height, width
        return {"text_embeds": condition.pooled, "time_ids": sizes.expand(len(latent), -1)}


FAMILY = StableDiffusionXL()
