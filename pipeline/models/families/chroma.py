"""Chroma: FLUX.1's latents and blocks with classifier-free guidance; T5, its padding masked."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from pipeline.models.family_facts import T5_VOCABULARY, Grid, Json, Text
from pipeline.models.flow_family import FlowFamily
from pipeline.models.patches import packed, positions, unpacked

if TYPE_CHECKING:
    from torch import Tensor

    from pipeline.diffusion.denoiser import Condition


class Chroma(FlowFamily):
    """The mask leaves one token of padding, and is a bias: masked tokens weigh 1 / e of others.

    So it was trained (the padding) and so its own pipeline computes (the bias, since diffusers
    hands its attention a mask of ones and zeros as numbers).
    """

    name = "chroma"
    pipelines = ("ChromaPipeline", "ChromaImg2ImgPipeline")
    network = ("transformer", "ChromaTransformer2DModel")
    texts = (Text("T5EncoderModel", "T5Tokenizer", "", 512, T5_VOCABULARY),)
    few_steps = {"flash": (16, 1.0)}  # noqa: RUF012  # read only
    native_cells = 128
    cells_of_token = 4
    ends_a_step_above = True
    inverts_distilled = False

    def grid(self, network: Json, vae: Json) -> Grid:
        grid = super().grid(network, vae)
        return replace(grid, multiple=2 * grid.scale)

    def condition(self, pipeline: Any, texts: list[str], device: Any) -> Condition:
        from pipeline.diffusion.denoiser import Condition

        tokens, _, mask, *_ = pipeline.encode_prompt(
            texts, device=device, do_classifier_free_guidance=False
        )
        return Condition(tokens.float(), mask=mask.bool())

    def prepare(self, network: Any) -> None:
        """The zeros that its guidance is an embedding of are written on its device."""
        import torch

        def on_the_device(module: Any, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
            return (torch.zeros(len(inputs[0]), device=network.device),)

        network.time_text_embed.guidance_proj.register_forward_pre_hook(on_the_device)

    def ask(
        self, network: Any, latent: Tensor, timestep: Tensor, condition: Condition, scale: int
    ) -> Tensor:
        import torch

        rows, _, height, width = latent.shape
        tokens, image = condition.tokens, packed(latent)
        seen = torch.cat([condition.seen(), condition.seen().new_ones(image.shape[:2])], dim=1)
        velocity = network(
            image,
            timestep=timestep.float().expand(rows) / 1000.0,
            encoder_hidden_states=tokens,
            txt_ids=tokens.new_zeros(tokens.shape[1], 3),
            img_ids=positions(height // 2, width // 2, 3, latent).to(latent.dtype),
            attention_mask=seen.to(latent.dtype),
            return_dict=False,
        )[0]
        return unpacked(velocity, height, width)


FAMILY = Chroma()
