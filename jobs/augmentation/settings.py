"""The settings of ``overpaint evaluate augmentation``."""

from __future__ import annotations

from typing import Any

from pydantic import Field, field_validator

from pipeline.config.sections import Count, Section, Share


class World(Section):
    """The demo world, with a bias: colors that go with backgrounds."""

    partners: dict[str, str] = Field(
        description="A color for each background, all different. The colors are the classes."
    )
    correlation: Share = Field(
        0.95, description="Share of biased scenes whose color is the partner of their background."
    )
    images: Count = Field(320, description="Images of each training set.")
    edits: Count = Field(1, description="Edits of each biased image, each to another color.")
    test_images: Count = Field(2000, description="Held-out, unbiased images.")
    seed: int = Field(0, ge=0, lt=2**31, description="Seed of the scenes.")

    @field_validator("partners")
    @classmethod
    def _colors_tell_backgrounds_apart(cls, value: dict[str, str]) -> dict[str, str]:
        if len(value) < 2 or len(set(value.values())) < len(value):
            raise ValueError("name at least two backgrounds, each with another color")
        return value


class Training(Section):
    """How each classifier is trained; the same for every training set."""

    seeds: int = Field(
        5, ge=2, le=10, description="Classifiers trained on each set, for the intervals."
    )
    steps: Count = Field(300, description="Training steps.")
    batch_size: Count = Field(64, description="Images in a step.")
    learning_rate: float = Field(4e-3, gt=0.0, description="Learning rate.")


class Augmentation(Section):
    """The configuration of `overpaint evaluate augmentation`."""

    world: World
    training: Training = Training()
    ratio: float = Field(1.0, gt=0.0, description="Edits for each original in a mixed set.")
    # Checked as a Config for each method, once its input and output are known.
    edit: dict[str, Any] = Field(
        description="Sections of a run's configuration, used for all methods."
    )
    methods: dict[str, list[str]] = Field(
        min_length=1, description="Methods by name, each with its own `key=value` of `edit`."
    )
