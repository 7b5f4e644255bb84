"""Stable Diffusion 3 and 3.5: two CLIPs, and T5 where the folder has it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pipeline.models.family_facts import T5_VOCABULARY, Text
from pipeline.models.flow_family import FlowFamily

if TYPE_CHECKING:
    from torch import Tensor

    from pipeline.diffusion.denoiser import Condition


class StableDiffusion3(FlowFamily):
    """Both CLIPs' states beside each other, then T5's tokens: zeros where there is no T5.

    Source: Esser et al., arXiv:2403.03206, figure 2.
    """

    name = "stable-diffusion-3"
    pipelines = ("StableDiffusion3Pipeline", "StableDiffusion3Img2ImgPipeline")
    network = ("transformer", "SD3Transformer2DModel")
    texts = (
        Text("CLIPTextModelWithProjection", "CLIPTokenizer"),
        Text("CLIPTextModelWithProjection", "CLIPTokenizer", "_2"),
        Text("T5EncoderModel", "T5Tokenizer", "_3", 256, T5_VOCABULARY, optional=True),
    )

    def condition(self, pipeline: Any, texts: list[str], device: Any) -> Condition:
        from pipeline.diffusion.denoiser import Condition

        tokens, _, pooled, _ = pipeline.encode_prompt(
            texts, None, None, device, do_classifier_free_guidance=False
        )
        return Condition(tokens.float(), pooled.float())

    def ask(
        self, network: Any, latent: Tensor, timestep: Tensor, condition: Condition, scale: int
    ) -> Tensor:
        velocity: Tensor = network(
            hidden_states=latent,
            timestep=timestep.float().expand(len(latent)),
            encoder_hidden_states=condition.tokens,
            pooled_projections=condition.pooled,
            return_dict=False,
        )[0]
        return velocity


FAMILY = StableDiffusion3()
