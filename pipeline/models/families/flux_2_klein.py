"""FLUX.2 klein, base and distilled: Qwen3 reads a chat, latents are normalised patches."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from pipeline.diffusion.flow_schedule import FlowSchedule
from pipeline.diffusion.schedule import Level
from pipeline.models.chat_template import as_chat
from pipeline.models.distilled import Distilled
from pipeline.models.family_facts import Grid, Json, Text
from pipeline.models.flow_family import FlowFamily
from pipeline.models.patches import positions, text_positions

if TYPE_CHECKING:
    from torch import Tensor

    from pipeline.diffusion.denoiser import Condition

USUAL_STEPS = 50  # of the shift at a level that belongs to no sampler


@dataclass(frozen=True)
class Flux2Schedule(FlowSchedule):
    """Its shift follows the number of tokens and of steps.

    Source: ``compute_empirical_mu`` of diffusers 0.42; a test compares the two.
    """

    num_tokens: int = 4096

    def for_grid(self, height: int, width: int) -> Flux2Schedule:
        return replace(self, num_tokens=height * width)

    def levels(self, num_steps: int, ratio: float = 1.0) -> list[Level]:
        return self._of(num_steps).levels(num_steps, ratio)

    def level_at(self, share: float) -> Level:
        return self._of(USUAL_STEPS).level_at(share)

    def _of(self, num_steps: int) -> FlowSchedule:
        many = 0.00016927 * self.num_tokens + 0.45666666  # of 200 steps
        few = 8.73809524e-05 * self.num_tokens + 1.89833333  # of 10 steps
        slope = 0.0 if self.num_tokens > 4300 else (many - few) / 190.0
        mu = many + slope * (num_steps - 200.0)
        return FlowSchedule(math.exp(mu), self.num_timesteps, self.lowest)


class Flux2Klein(FlowFamily):
    """A latent cell is a patch of 2 x 2 of the VAE's, scaled by its batch norm's statistics."""

    name = "flux.2-klein"
    pipelines = ("Flux2KleinPipeline",)
    network = ("transformer", "Flux2Transformer2DModel")
    vae = "AutoencoderKLFlux2"
    texts = (Text("Qwen3ForCausalLM", "Qwen2Tokenizer", max_tokens=512, template=as_chat(False)),)
    native_cells = 64
    ends_a_step_above = True
    inverts_distilled = False

    def grid(self, network: Json, vae: Json) -> Grid:
        grid = super().grid(network, vae)
        sides = {name: 2 * getattr(grid, name) for name in ("scale", "multiple", "native_size")}
        return replace(grid, channels=4 * grid.channels, **sides)

    def distilled(self, index: Json) -> Distilled | None:
        said = "its model_index.json says is_distilled"
        return Distilled(said, "klein", 4, 1.0) if index.get("is_distilled") else None

    def schedule(
        self, scheduler: Json, grid: tuple[int, int], cells_per_token: int
    ) -> FlowSchedule:
        found = super().schedule(scheduler, grid, cells_per_token)
        if not scheduler.get("use_dynamic_shifting"):
            return found
        return Flux2Schedule(
            found.shift, found.num_timesteps, found.lowest, num_tokens=grid[0] * grid[1]
        )

    def condition(self, pipeline: Any, texts: list[str], device: Any) -> Condition:
        from pipeline.diffusion.denoiser import Condition

        tokens, _ = pipeline.encode_prompt(texts, device)
        return Condition(tokens.float())

    def ask(
        self, network: Any, latent: Tensor, timestep: Tensor, condition: Condition, scale: int
    ) -> Tensor:
        height, width = latent.shape[-2:]
        velocity: Tensor = network(
            latent.flatten(2).transpose(1, 2),
            timestep=timestep.float().expand(len(latent)) / 1000.0,
            encoder_hidden_states=condition.tokens,
            txt_ids=text_positions(condition.tokens.shape[1], 4, latent),
            img_ids=positions(height, width, 4, latent),
            guidance=None,
            return_dict=False,
        )[0]
        return velocity.transpose(1, 2).reshape(latent.shape)

    def latent_range(self, vae: Any) -> tuple[Any, Any]:
        deviation = (vae.bn.running_var.float() + vae.config.batch_norm_eps).sqrt()
        return vae.bn.running_mean.float().view(1, -1, 1, 1), 1.0 / deviation.view(1, -1, 1, 1)

    def encoded(self, vae: Any, pixels: Tensor) -> Tensor:
        from diffusers import Flux2KleinPipeline as Theirs

        patches: Tensor = Theirs._patchify_latents(super().encoded(vae, pixels))
        return patches

    def decoded(self, vae: Any, latents: Tensor) -> Tensor:
        from diffusers import Flux2KleinPipeline as Theirs

        return super().decoded(vae, Theirs._unpatchify_latents(latents))


FAMILY = Flux2Klein()
