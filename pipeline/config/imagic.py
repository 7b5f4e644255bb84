"""The settings of Imagic: how an edit is fitted, and how its image is made and chosen."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator

from pipeline.config.sections import Count, Section, Share

StepCount = Annotated[int, Field(ge=0)]  # 0 leaves a phase of the fit out
LearningRate = Annotated[float, Field(gt=0.0, le=1.0)]

# The paper's for Stable Diffusion (arXiv:2210.09276, appendix A); lora's are the class's own.
FULL = {
    "embedding_steps": 1000,
    "embedding_learning_rate": 2e-3,
    "model_steps": 1500,
    "model_learning_rate": 5e-7,
    "rank": None,
    "draws": 1,
    "noise_range": (0.0, 1.0),
    "seeds": 8,
}


class Imagic(Section):
    """Defaults of ``form: full`` are the paper's for Stable Diffusion, of ``lora`` made for haste.

    ``full`` changes every weight of the network, one edit after the other. ``lora`` changes the
    projections of its attention by low-rank products, many edits in one batch.
    """

    form: Literal["lora", "full"] = "lora"
    embedding_steps: StepCount = 100
    embedding_learning_rate: LearningRate = 2e-2
    model_steps: StepCount = 200
    model_learning_rate: LearningRate = 3e-3
    rank: int | None = Field(8, ge=1)  # of lora's products
    draws: Count = 2  # noises a step, each at a level of its own
    noise_range: tuple[Share, Share] = (0.4, 1.0)  # shares of the schedule that a fit draws from
    checkpointing: bool = False  # less memory in a fit, for one forward pass more a step
    interp_eta: Share = 0.7  # 0: the fitted embedding, 1: the edit text's own
    seeds: Count = 1  # images made of an edit; the one with the best score is kept
    score_draws: Count = 8  # noises in a score, where there is more than one seed

    @model_validator(mode="before")
    @classmethod
    def _defaults_of_the_form(cls, values: Any) -> Any:
        if isinstance(values, dict) and values.get("form") == "full":
            return {**FULL, **values}
        return values

    @field_validator("noise_range")
    @classmethod
    def _ascending(cls, value: tuple[float, float]) -> tuple[float, float]:
        if value[0] >= value[1]:
            raise ValueError("allowed are two shares in [0, 1], the lower one first")
        return value

    @model_validator(mode="after")
    def _rank_is_loras(self) -> Imagic:
        if (self.rank is None) != (self.form == "full"):
            raise ValueError(
                f"rank={self.rank}: form: lora needs a rank of at least 1, form: full takes none"
            )
        return self

    def check_fits(self, dtype: str, micro_batch: int, *, compiled: bool) -> None:
        """Whether the fit can be computed as the model's section and the encode stage's batch say.

        Raises:
            ValueError: it cannot; the message names key, value and what is allowed.
        """
        allowed = ("float32",) if self.form == "full" else ("float32", "bfloat16")
        if dtype not in allowed:
            raise ValueError(
                f"model.dtype={dtype!r}: for method.imagic.form: {self.form} allowed is "
                f"{' or '.join(allowed)}; steps this small vanish in fewer bits"
            )
        if compiled:
            raise ValueError(
                "model.compile: for method.name: imagic allowed is off; a fit changes the network"
            )
        if self.draws > micro_batch:
            raise ValueError(
                f"method.imagic.draws={self.draws}: at most stages.encode.micro_batch="
                f"{micro_batch}, since the draws of a step go through the network together"
            )
