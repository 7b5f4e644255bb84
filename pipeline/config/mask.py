"""The section ``method.mask`` of the configuration: how an edit's mask is inferred."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, field_validator

from pipeline.config.sections import Count, Ratio, Section

Ratios = Annotated[list[Ratio], Field(min_length=1)]


class Mask(Section):
    """The inferred edit mask: DiffEdit, step 1. Defaults are the paper's where it gives one."""

    source: Literal["infer", "full"] = Field(
        "infer",
        description="`infer`: from the two texts. `full`: edit everywhere; the default for sdedit "
        "and imagic. A sample's `key.mask.png` replaces both.",
    )
    noise_level: list[Ratio] = Field(
        [0.5],
        description="Noise level at which the two texts are compared, as a share of the schedule. "
        "The maps of several levels are averaged.",
    )
    num_noises: Count = Field(
        10,
        description="Noises at each level. Each costs one network evaluation for the reference "
        "and one for each edit text.",
    )
    reference: Literal["caption", "empty"] = Field(
        "caption", description="The text that the edit text is compared with."
    )
    rule: Literal["minmax", "mean_ratio", "otsu"] = Field(
        "minmax",
        description="How the map becomes a mask. `minmax`: rescale it and cut at `threshold`. "
        "`otsu`: the same, but find the cut. `mean_ratio`: cut at a share of three means.",
    )
    clamp_percentile: float = Field(
        99.0,
        gt=50.0,
        le=100.0,
        description="`minmax` and `otsu`: larger values are clamped to this percentile.",
    )
    threshold: float = Field(
        0.5,
        gt=0.0,
        description="A cell above it is edited. `minmax`: in the rescaled map, 0 to 1. "
        "`mean_ratio`: in units of three means. `otsu` ignores it.",
    )
    floor: float = Field(
        0.02,
        ge=0.0,
        description="A cell whose predictions differ less, in standard deviations of the "
        "predicted noise, is never edited.",
    )
    smooth: float = Field(
        0.0, ge=0.0, description="Sigma of a Gaussian over the map, in latent cells; 0 is off."
    )
    dilate: int = Field(0, ge=0, description="Latent cells by which the mask grows.")
    soft: bool = Field(
        False, description="Keep the map's values inside the mask instead of setting them to 1."
    )

    @field_validator("noise_level", mode="before", json_schema_input_type=Ratio | Ratios)
    @classmethod
    def _one_or_several(cls, value: Any) -> Any:
        return [value] if isinstance(value, int | float) else value

    @field_validator("noise_level")
    @classmethod
    def _at_least_one(cls, value: list[float]) -> list[float]:
        if not value:
            raise ValueError("give at least one noise level in (0, 1]")
        return value
