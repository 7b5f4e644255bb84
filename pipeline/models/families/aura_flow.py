"""AuraFlow: UMT5 reads the text, and its padding is zeros that the network sees."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from pipeline.models.family_facts import T5_VOCABULARY, Grid, Json, Text
from pipeline.models.flow_family import FlowFamily

if TYPE_CHECKING:
    from torch import Tensor

    from pipeline.diffusion.denoiser import Condition


class AuraFlow(FlowFamily):
    """Its tokenizer is of the class that the folder says; published ones differ."""

    name = "aura-flow"
    pipelines = ("AuraFlowPipeline",)
    network = ("transformer", "AuraFlowTransformer2DModel")
    texts = (Text("UMT5EncoderModel", "AutoTokenizer", "", 256, T5_VOCABULARY),)
    patch_size = 2
    inverts_distilled = False

    def grid(self, network: Json, vae: Json) -> Grid:
        grid = super().grid(network, vae)
        positions = int(network.get("pos_embed_max_size") or 1024)  # of a square, in all
        return replace(grid, largest=grid.multiple * math.isqrt(positions))

    def condition(self, pipeline: Any, texts: list[str], device: Any) -> Condition:
        from pipeline.diffusion.denoiser import Condition

        tokens, *_ = pipeline.encode_prompt(texts, None, False, device=device)
        return Condition(tokens.float())

    def ask(
        self, network: Any, latent: Tensor, timestep: Tensor, condition: Condition, scale: int
    ) -> Tensor:
        velocity: Tensor = network(
            latent,
            encoder_hidden_states=condition.tokens,
            timestep=(timestep.float() / 1000.0).expand(len(latent)).to(latent.dtype),
            return_dict=False,
        )[0]
        return velocity


FAMILY = AuraFlow()
