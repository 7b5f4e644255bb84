"""The configuration's section ``scores``: which networks judge an edit, and what each one gives."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from pipeline.config.sections import Section
from pipeline.records.rows import COLUMNS, SCORE

# What each scorer computes, as columns are named without "score_". All others are always there.
COMPUTED_BY = {
    "clip": ("clip_text_before", "clip_text_after", "clip_image", "clip_directional"),
    "lpips": ("lpips",),
    "dino": ("dino_structure",),
    "dinov2": ("dinov2_image",),
    "aesthetic": ("aesthetic",),
    "nsfw": ("nsfw",),
}
BY_NETWORK = frozenset(name for names in COMPUTED_BY.values() for name in names)
ALWAYS = (
    "mask_area",
    *(
        name.removeprefix(SCORE)
        for name, *_ in COLUMNS
        if name.startswith(SCORE) and name.removeprefix(SCORE) not in BY_NETWORK
    ),
)


class Weights(Section):
    """Where a scorer's weights are: safetensors only."""

    path: str  # a local folder or file, or a hub id
    revision: str | None = None  # of a hub id


class Lpips(Weights):
    """LPIPS (Zhang et al., arXiv:1801.03924), version 0.1: backbone and heads together."""

    net: Literal["alex", "squeeze", "vgg"] = "alex"  # squeeze is PIE-Bench's, alex FlexIT's


class Dino(Weights):
    """Structure distance (Splice, arXiv:2201.00424): PIE-Bench takes ViT-B/8, layer 11."""

    layer: int = Field(11, ge=0)  # counted from 0


class Nsfw(Weights):
    """A transformers image classifier that has a label for what is not safe for work."""

    label: str = "nsfw"


class Scores(Section):
    """Scores that need a network. Where one is given there is a fourth stage, ``score``."""

    clip: Weights | None = None
    lpips: Lpips | None = None
    dino: Dino | None = None
    dinov2: Weights | None = None
    aesthetic: Weights | None = None  # a linear head on the features of scores.clip
    nsfw: Nsfw | None = None
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"

    @property
    def chosen(self) -> dict[str, Weights]:
        """The scorers that are asked for, by name, in the order of ``COMPUTED_BY``."""
        given = {name: getattr(self, name) for name in COMPUTED_BY}
        return {name: weights for name, weights in given.items() if weights is not None}

    @property
    def computed(self) -> tuple[str, ...]:
        """The names of all scores that a row will have."""
        return (*ALWAYS, *(score for name in self.chosen for score in COMPUTED_BY[name]))

    @model_validator(mode="after")
    def _aesthetic_needs_clip(self) -> Scores:
        if self.aesthetic is not None and self.clip is None:
            raise ValueError("aesthetic is a head on CLIP's features; give scores.clip too")
        return self
