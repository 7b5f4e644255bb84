"""What the families with a schedule of betas have in common."""

from __future__ import annotations

from pipeline.diffusion.schedule import Schedule
from pipeline.models.family import Family
from pipeline.models.family_facts import Json, UnsupportedModelError

PREDICTION_TYPES = ("epsilon", "v_prediction", "sample")


class BetasFamily(Family):
    """A family whose network predicts epsilon, v or x0."""

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
