"""What the families with a UNet have in common, besides their schedules of betas."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

from pipeline.models.betas_family import BetasFamily
from pipeline.models.family_facts import Json, UnsupportedModelError

if TYPE_CHECKING:
    from torch import Tensor

    from pipeline.diffusion.denoiser import Condition


class UNetFamily(BetasFamily):
    """A family whose network is diffusers' ``UNet2DConditionModel``.

    Attributes:
        added: the conditions that the UNet takes besides the text: ``addition_embed_type``.
    """

    network = ("unet", "UNet2DConditionModel")
    is_convolutional = True
    reuses_features = True
    added: ClassVar[str | None] = None

    def check(self, index: Json, network: Json, vae: Json) -> None:
        super().check(index, network, vae)
        if network.get("time_cond_proj_dim"):
            raise UnsupportedModelError(
                f"time_cond_proj_dim={network['time_cond_proj_dim']}: its guidance is distilled "
                "into the network; allowed are models with classifier-free guidance"
            )
        added = network.get("addition_embed_type")
        if added != self.added:
            raise UnsupportedModelError(f"addition_embed_type={added!r}; allowed is {self.added!r}")

    def ask(
        self, network: Any, latent: Tensor, timestep: Tensor, condition: Condition, scale: int
    ) -> Tensor:
        added = self.added_conditions(latent, condition, scale)
        predicted: Tensor = network(
            latent, timestep, condition.tokens, added_cond_kwargs=added, return_dict=False
        )[0]
        return predicted

    def added_conditions(
        self, latent: Tensor, condition: Condition, scale: int
    ) -> dict[str, Tensor] | None:
        """What the UNet takes besides latent, timestep and text."""
        return None
