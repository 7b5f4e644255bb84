"""What the families with a UNet have in common: schedules of betas, and how a UNet is asked."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

from pipeline.diffusion.schedule import Schedule
from pipeline.models.family import Family, Json, UnsupportedModelError

if TYPE_CHECKING:
    from torch import Tensor

    from pipeline.diffusion.denoiser import Condition

PREDICTION_TYPES = ("epsilon", "v_prediction", "sample")


class UNetFamily(Family):
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

    def prediction_type(self, scheduler: Json) -> str:
        name = str(scheduler.get("_class_name", ""))
        if name.startswith(("FlowMatch", "EDM")):
            raise UnsupportedModelError(
                f"scheduler class {name}; allowed are those of a schedule of betas"
            )
        prediction_type = str(scheduler.get("prediction_type", "epsilon"))
        if prediction_type not in PREDICTION_TYPES:
            allowed = ", ".join(PREDICTION_TYPES)
            raise UnsupportedModelError(
                f"prediction_type={prediction_type!r}; allowed are {allowed}"
            )
        return prediction_type

    def schedule(self, scheduler: Json, grid: tuple[int, int], cells_per_token: int) -> Schedule:
        return Schedule.from_config(scheduler)

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
