"""The section ``method.imagic``: how an edit is fitted, and how its image is made and chosen."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator

from pipeline.config.sections import Count, Section, Share

StepCount = Annotated[int, Field(ge=0)]
LearningRate = Annotated[float, Field(gt=0.0, le=1.0)]

# Defaults of form: full, the paper's for Stable Diffusion (arXiv:2210.09276, appendix A). Those of
# form: lora are in the class.
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
    """The fit of an embedding and the network to each edit, and the choice of its image.

    Defaults of `form: lora` are made for speed, those of `form: full` are the paper's for Stable
    Diffusion.
    """

    form: Literal["lora", "full"] = Field(
        "lora",
        description="`lora`: low-rank changes of all attention projections, many edits in one "
        "batch. `full`: every weight of the network, one edit after the other.",
    )
    embedding_steps: StepCount = Field(
        100, description="Steps of fitting the embedding; 0 leaves it out. `full`: 1000."
    )
    embedding_learning_rate: LearningRate = Field(
        2e-2, description="Learning rate of the embedding. `full`: 0.002."
    )
    model_steps: StepCount = Field(
        200, description="Steps of fitting the network; 0 leaves it out. `full`: 1500."
    )
    model_learning_rate: LearningRate = Field(
        3e-3, description="Learning rate of the network. `full`: 5.0e-7."
    )
    rank: int | None = Field(
        8, ge=1, description="Rank of the low-rank changes of `lora`. `full`: null."
    )
    draws: Count = Field(
        2,
        description="Noises in a step, each at its own level; at most `stages.encode.micro_batch`."
        " `full`: 1.",
    )
    noise_range: tuple[Share, Share] = Field(
        (0.4, 1.0),
        description="Shares of the schedule between which a fit draws noise levels, the lower one "
        "first. `full`: [0.0, 1.0].",
    )
    checkpointing: bool = Field(
        False, description="Less memory in a fit, for one more forward pass a step."
    )
    interp_eta: Share = Field(
        0.7,
        description="Mix of embeddings. 0: the fitted one, 1: that of the edit text. The paper "
        "uses 0.6 to 0.8.",
    )
    seeds: Count = Field(
        1,
        description="Images made for an edit, of which the one with the best score is kept. "
        "`full`: 8.",
    )
    score_draws: Count = Field(
        8, description="Noises in a score; used if there is more than one seed."
    )

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
        """Checks the fit against the section model and the micro-batch of the stage encode.

        Raises:
            ValueError: they do not go together; names the key, its value and what is allowed.
        """
        allowed = ("auto", "float32") + (() if self.form == "full" else ("bfloat16",))
        if dtype not in allowed:
            raise ValueError(
                f"model.dtype={dtype!r}: for method.imagic.form: {self.form} allowed is "
                f"{' or '.join(allowed)}; steps this small are lost at a lower precision"
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
