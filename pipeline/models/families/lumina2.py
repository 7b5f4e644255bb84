"""Lumina-Image 2.0: Gemma2 reads an instruction and the text, its padding masked."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from typing import TYPE_CHECKING, Any

from pipeline.diffusion.flow_schedule import FlowSchedule
from pipeline.models.family_facts import JSON_VOCABULARY, Grid, Json, Text, UnsupportedModelError
from pipeline.models.flow_family import FlowFamily

if TYPE_CHECKING:
    from torch import Tensor

    from pipeline.diffusion.denoiser import Condition

MAX_TOKENS = 256


@cache
def instruction() -> str:
    """What stands before a text, as the family's pipeline has it."""
    from diffusers import Lumina2Pipeline

    return f"{Lumina2Pipeline(None, None, None, None, None).system_prompt} <Prompt Start> "


def instructed(tokenizer: Any, text: str) -> str:
    """What the family's pipeline gives the tokenizer; the empty text is unconditional, and bare."""
    return instruction() + text if text else ""


def row_norm(velocity: Tensor) -> Tensor:
    """(N, C, h, 1): the norm along the image's width, which is what the family's pipeline takes."""
    norm: Tensor = velocity.norm(dim=-1, keepdim=True)
    return norm


class Lumina2(FlowFamily):
    """Its time runs from noise, 0, to image, 1, and its velocity from noise to image.

    Guidance keeps the norm of the text's own velocity.
    """

    name = "lumina2"
    pipelines = ("Lumina2Pipeline", "Lumina2Text2ImgPipeline")  # the latter in older diffusers
    network = ("transformer", "Lumina2Transformer2DModel")
    texts = (
        Text("Gemma2Model", "GemmaTokenizer", "", MAX_TOKENS, JSON_VOCABULARY, template=instructed),
    )
    native_cells = 128
    patch_size = 2
    ends_a_step_above = True
    inverts_distilled = False
    instructs_texts = True

    def grid(self, network: Json, vae: Json) -> Grid:
        grid = super().grid(network, vae)
        positions = min(network.get("axes_lens", (300, 512, 512))[1:], default=0)
        if positions < 1:
            raise UnsupportedModelError(
                f"axes_lens={network['axes_lens']} of its network; allowed are positions of texts, "
                "rows and columns"
            )
        return replace(grid, largest=grid.multiple * int(positions))

    def schedule(
        self, scheduler: Json, grid: tuple[int, int], cells_per_token: int
    ) -> FlowSchedule:
        if scheduler.get("use_dynamic_shifting"):
            raise ValueError(
                "use_dynamic_shifting=True in the scheduler's config: not supported for "
                f"{self.name}, whose pipeline would count channels as tokens; allowed is a shift"
            )
        return super().schedule(scheduler, grid, cells_per_token)

    def condition(self, pipeline: Any, texts: list[str], device: Any) -> Condition:
        from pipeline.diffusion.denoiser import Condition

        tokens, mask = pipeline._get_gemma_prompt_embeds(
            [instructed(None, text) for text in texts], device, MAX_TOKENS
        )
        return Condition(
            tokens.float(), mask=mask.bool(), kept_norm=row_norm, lengths=mask.sum(dim=1).cpu()
        )

    def prepare(self, network: Any) -> None:
        """Tables of positions go to its device once, and lengths come from main memory."""
        positions = network.rope_embedder
        positions.freqs_cis = [table.to(network.device) for table in positions.freqs_cis]
        positions.register_forward_pre_hook(
            lambda module, inputs: (inputs[0], module.seen_in_main_memory)
        )

    def ask(
        self, network: Any, latent: Tensor, timestep: Tensor, condition: Condition, scale: int
    ) -> Tensor:
        import torch

        assert condition.lengths is not None, "this family's texts have lengths"
        places = torch.arange(condition.tokens.shape[1])
        network.rope_embedder.seen_in_main_memory = places < condition.lengths[:, None]
        towards_image: Tensor = network(
            latent,
            timestep=1.0 - timestep.float().expand(len(latent)) / 1000.0,
            encoder_hidden_states=condition.tokens,
            encoder_attention_mask=condition.seen(),
            return_dict=False,
        )[0]
        return -towards_image


FAMILY = Lumina2()
