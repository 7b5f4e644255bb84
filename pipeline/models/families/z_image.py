"""Z-Image, base and Turbo: Qwen3 reads a chat's text, whose length differs from text to text."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pipeline.models.chat_template import as_chat
from pipeline.models.family_facts import Text
from pipeline.models.flow_family import FlowFamily

if TYPE_CHECKING:
    from torch import Tensor

    from pipeline.diffusion.denoiser import Condition


class ZImage(FlowFamily):
    """Its time runs from noise, 0, to image, 1, and its velocity from noise to image.

    Guidance of the pipeline is on above 0: its scale g is our 1 + g.
    """

    name = "z-image"
    pipelines = ("ZImagePipeline", "ZImageImg2ImgPipeline")
    network = ("transformer", "ZImageTransformer2DModel")
    texts = (Text("Qwen3Model", "Qwen2Tokenizer", max_tokens=512, template=as_chat(True)),)
    native_cells = 128
    patch_size = 2
    ends_a_step_above = True
    inverts_distilled = False
    fits_texts = False

    def condition(self, pipeline: Any, texts: list[str], device: Any) -> Condition:
        from pipeline.diffusion.denoiser import Condition

        rows, _ = pipeline.encode_prompt(list(texts), device, do_classifier_free_guidance=False)
        return Condition.of_rows([row.float() for row in rows])

    def ask(
        self, network: Any, latent: Tensor, timestep: Tensor, condition: Condition, scale: int
    ) -> Tensor:
        import torch

        towards_image = network(
            list(latent.unsqueeze(2)),  # one frame of a video
            (1000.0 - timestep.float().expand(len(latent))) / 1000.0,
            condition.rows(),
            return_dict=False,
        )[0]
        return -torch.stack([frame[:, 0] for frame in towards_image])


FAMILY = ZImage()
