"""SANA: Gemma2 reads an instruction and the text, its padding masked; cells of 32 x 32 pixels."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Any

from pipeline.diffusion.flow_schedule import FlowSchedule
from pipeline.diffusion.flow_solver_schedule import FlowSolverSchedule
from pipeline.models.family_facts import JSON_VOCABULARY, Grid, Json, Text, UnsupportedModelError
from pipeline.models.flow_family import FlowFamily

if TYPE_CHECKING:
    from torch import Tensor

    from pipeline.diffusion.denoiser import Condition

MAX_TOKENS = 300  # of a text, without its instruction
SCHEDULER = "DPMSolverMultistepScheduler"


@cache
def instruction() -> list[str]:
    """The lines before a text, as the family's pipeline has them."""
    import inspect

    from diffusers import SanaPipeline

    parameters = inspect.signature(SanaPipeline.__call__).parameters
    lines: list[str] = parameters["complex_human_instruction"].default
    return lines


def instructed(tokenizer: Any, text: str) -> str:
    """What the family's pipeline gives the tokenizer; the empty text is unconditional, and bare."""
    text = text.lower().strip()
    return "\n".join(instruction()) + text if text else ""


def max_tokens(tokenizer: Any) -> int:
    """Where the pipeline cuts a text with its instruction."""
    return len(tokenizer.encode("\n".join(instruction()))) + MAX_TOKENS - 2


class Sana(FlowFamily):
    """Its VAE, DC-AE, has no distribution. Its pipeline samples with DPM-Solver++."""

    name = "sana"
    pipelines = ("SanaPipeline",)
    network = ("transformer", "SanaTransformer2DModel")
    vae = "AutoencoderDC"
    texts = (
        Text("Gemma2Model", "GemmaTokenizer", "", max_tokens, JSON_VOCABULARY, template=instructed),
    )
    native_cells = 32
    inverts_distilled = False
    instructs_texts = True

    def check(self, index: Json, network: Json, vae: Json) -> None:
        super().check(index, network, vae)
        if network.get("guidance_embeds"):
            raise UnsupportedModelError(
                "guidance_embeds=True of its network (SANA-Sprint?); allowed is False"
            )

    def grid(self, network: Json, vae: Json) -> Grid:
        blocks = vae.get("encoder_block_out_channels", [0] * 6)
        channels = vae.get("latent_channels", 32)
        return super().grid(network, {"block_out_channels": blocks, "latent_channels": channels})

    def prediction_type(self, scheduler: Json) -> str:
        if scheduler.get("_class_name") != SCHEDULER:
            return super().prediction_type(scheduler)
        return "flow"  # the schedule checks it

    def schedule(
        self, scheduler: Json, grid: tuple[int, int], cells_per_token: int
    ) -> FlowSchedule:
        if scheduler.get("_class_name") != SCHEDULER:
            return super().schedule(scheduler, grid, cells_per_token)
        return FlowSolverSchedule.from_solver(scheduler)

    def condition(self, pipeline: Any, texts: list[str], device: Any) -> Condition:
        from pipeline.diffusion.denoiser import Condition

        def encoded(text: str) -> Condition:
            tokens, mask, *_ = pipeline.encode_prompt(
                [text],
                do_classifier_free_guidance=False,
                device=device,
                complex_human_instruction=instruction() if text.strip() else None,
            )
            return Condition(tokens.float(), mask=mask.bool())

        return Condition.cat([encoded(text) for text in texts])

    def ask(
        self, network: Any, latent: Tensor, timestep: Tensor, condition: Condition, scale: int
    ) -> Tensor:
        velocity: Tensor = network(
            latent,
            encoder_hidden_states=condition.tokens,
            encoder_attention_mask=condition.seen(),
            timestep=timestep.float().expand(len(latent)) * network.config.timestep_scale,
            return_dict=False,
        )[0]
        return velocity[:, : latent.shape[1]]  # some predict a variance too

    def latent_range(self, vae: Any) -> tuple[Any, Any]:
        return 0.0, float(vae.config.scaling_factor)

    def encoded(self, vae: Any, pixels: Tensor) -> Tensor:
        latents: Tensor = vae.encode(pixels).latent
        return latents


FAMILY = Sana()
