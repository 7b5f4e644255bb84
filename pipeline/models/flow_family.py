"""What the families that were trained by flow matching have in common."""

from __future__ import annotations

from typing import ClassVar

from pipeline.diffusion.flow_schedule import FlowSchedule
from pipeline.models.family import Family
from pipeline.models.family_facts import Json, UnsupportedModelError

FLOW_SCHEDULERS = ("FlowMatchEulerDiscreteScheduler", "FlowMatchHeunDiscreteScheduler")


class FlowFamily(Family):
    """A family whose network predicts a velocity.

    Attributes:
        ends_a_step_above: see ``FlowSchedule.from_config``.
    """

    ends_a_step_above: ClassVar[bool] = False

    def prediction_type(self, scheduler: Json) -> str:
        name = str(scheduler.get("_class_name", ""))
        if name not in FLOW_SCHEDULERS:
            raise UnsupportedModelError(
                f"scheduler class {name}; allowed are {', '.join(FLOW_SCHEDULERS)}"
            )
        return "flow"

    def schedule(
        self, scheduler: Json, grid: tuple[int, int], cells_per_token: int
    ) -> FlowSchedule:
        return FlowSchedule.from_config(
            scheduler, grid, cells_per_token, ends_a_step_above=self.ends_a_step_above
        )
