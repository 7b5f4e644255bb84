"""FLUX.1 dev, Krea and schnell: CLIP's pooled text and T5's tokens; latents in patches of 2 x 2."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from pipeline.models.family_facts import T5_VOCABULARY, Grid, Json, Text
from pipeline.models.flow_family import FlowFamily
from pipeline.models.patches import packed, positions, unpacked

if TYPE_CHECKING:
    from torch import Tensor

    from pipeline.diffusion.denoiser import Condition


class Flux1(FlowFamily):
    """Guidance is an input of dev's network, which was distilled from classifier-free guidance.

    So it costs one evaluation, a negative text does nothing, and mask and encoding ask with 1.
    Schnell has no guidance, and few steps.
    """

    name = "flux.1"
    pipelines = ("FluxPipeline", "FluxImg2ImgPipeline")
    network = ("transformer", "FluxTransformer2DModel")
    texts = (
        Text("CLIPTextModel", "CLIPTokenizer"),
        Text("T5EncoderModel", "T5Tokenizer", "_2", 512, T5_VOCABULARY),
    )
    guidance_is_embedded = True
    few_steps = {"schnell": (4, 1.0)}  # noqa: RUF012  # read only
    native_cells = 128
    cells_of_token = 4
    ends_a_step_above = True
    inverts_distilled = False

    def grid(self, network: Json, vae: Json) -> Grid:
        grid = super().grid(network, vae)
        return replace(grid, multiple=2 * grid.scale)

    def condition(self, pipeline: Any, texts: list[str], device: Any) -> Condition:
        from pipeline.diffusion.denoiser import Condition

        tokens, pooled, _ = pipeline.encode_prompt(texts, None, device)
        return Condition(tokens.float(), pooled.float()).with_guidance(1.0)

    def ask(
        self, network: Any, latent: Tensor, timestep: Tensor, condition: Condition, scale: int
    ) -> Tensor:
        rows, _, height, width = latent.shape
        tokens = condition.tokens
        velocity = network(
            packed(latent),
            timestep=timestep.float().expand(rows) / 1000.0,
            guidance=condition.guidance if network.config.guidance_embeds else None,
            pooled_projections=condition.pooled,
            encoder_hidden_states=tokens,
            txt_ids=tokens.new_zeros(tokens.shape[1], 3),
            img_ids=positions(height // 2, width // 2, 3, latent).to(latent.dtype),
            return_dict=False,
        )[0]
        return unpacked(velocity, height, width)


FAMILY = Flux1()
