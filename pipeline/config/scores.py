"""The section ``scores`` of the configuration: the networks that score edits, and their scores."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from pipeline.config.sections import Section
from pipeline.records.rows import COLUMNS, SCORE

# The scores that each scorer computes, named as its columns without "score_".
COMPUTED_BY = {
    "clip": ("clip_text_before", "clip_text_after", "clip_image", "clip_directional"),
    "lpips": ("lpips",),
    "dino": ("dino_structure",),
    "dinov2": ("dinov2_image",),
    "aesthetic": ("aesthetic",),
    "nsfw": ("nsfw",),
}
BY_NETWORK = frozenset(name for names in COMPUTED_BY.values() for name in names)
ALWAYS = (  # scores that every run computes
    "mask_area",
    *(
        name.removeprefix(SCORE)
        for name, *_ in COLUMNS
        if name.startswith(SCORE) and name.removeprefix(SCORE) not in BY_NETWORK
    ),
)


class Weights(Section):
    """Where the weights of a scorer are."""

    path: str = Field(
        description="A local folder, a local file or a hub id. Safetensors only. Its content is "
        "part of the fingerprint."
    )
    revision: str | None = Field(
        None,
        description="Branch, tag or commit of a hub id; null takes the default branch. Of local "
        "weights: the sha256 that they must have.",
    )


class Lpips(Weights):
    """LPIPS (Zhang et al., arXiv:1801.03924), version 0.1: backbone and heads in one file."""

    net: Literal["alex", "squeeze", "vgg"] = Field(
        "alex", description="Backbone of LPIPS. PIE-Bench takes `squeeze`, FlexIT `alex`."
    )


class Dino(Weights):
    """DINO structure distance (Splice, arXiv:2201.00424). PIE-Bench takes ViT-B/8, layer 11."""

    layer: int = Field(
        11, ge=0, description="Layer whose keys are compared, counted from 0. PIE-Bench takes 11."
    )


class Nsfw(Weights):
    """A transformers image classifier with a label for images that are not safe for work."""

    label: str = Field("nsfw", description="The classifier's label whose probability is written.")


class Scores(Section):
    """Scores that need a network. Any of them adds a fourth stage, `score`."""

    clip: Weights | None = Field(
        None,
        description="CLIP: computes `clip_text_before`, `clip_text_after`, `clip_image` and "
        "`clip_directional`.",
    )
    lpips: Lpips | None = Field(None, description="LPIPS: computes `lpips`.")
    dino: Dino | None = Field(
        None, description="DINO: computes `dino_structure`, PIE-Bench's structure distance."
    )
    dinov2: Weights | None = Field(None, description="DINOv2: computes `dinov2_image`.")
    aesthetic: Weights | None = Field(
        None,
        description="Linear layers on CLIP's features: computes `aesthetic`. Needs `scores.clip`.",
    )
    nsfw: Nsfw | None = Field(
        None, description="Any transformers image classifier with the label: computes `nsfw`."
    )
    dtype: Literal["float32", "bfloat16", "float16"] = Field(
        "float32", description="Precision of the scorers."
    )

    @property
    def chosen(self) -> dict[str, Weights]:
        """The configured scorers by name, in the order of ``COMPUTED_BY``."""
        given = {name: getattr(self, name) for name in COMPUTED_BY}
        return {name: weights for name, weights in given.items() if weights is not None}

    @property
    def computed(self) -> tuple[str, ...]:
        """The names of all scores that this run computes."""
        return (*ALWAYS, *(score for name in self.chosen for score in COMPUTED_BY[name]))

    @model_validator(mode="after")
    def _aesthetic_needs_clip(self) -> Scores:
        if self.aesthetic is not None and self.clip is None:
            raise ValueError("aesthetic reads CLIP's features; give scores.clip too")
        return self
