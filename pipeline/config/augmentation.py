"""The settings of ``overpaint evaluate augmentation``."""

from __future__ import annotations

from typing import Any

from pydantic import Field, field_validator

from pipeline.config.sections import Count, Section, Share


class World(Section):
    """The demo world and the bias that is planted in it."""

    partners: dict[str, str]  # a color for each background, all different: the classes
    correlation: Share = 0.95
    images: Count = 320  # of each training set
    edits: Count = 1  # of each biased image, each to another color
    test_images: Count = 2000
    seed: int = Field(0, ge=0, lt=2**31)

    @field_validator("partners")
    @classmethod
    def _colors_tell_backgrounds_apart(cls, value: dict[str, str]) -> dict[str, str]:
        if len(value) < 2 or len(set(value.values())) < len(value):
            raise ValueError("name at least two backgrounds, and a color of its own for each")
        return value


class Training(Section):
    """How each classifier is trained: the same for every arm."""

    seeds: int = Field(5, ge=2, le=10)  # from two on there is an interval
    steps: Count = 300
    batch_size: Count = 64
    learning_rate: float = Field(4e-3, gt=0.0)


class Augmentation(Section):
    """A whole evaluation."""

    world: World
    training: Training = Training()
    ratio: float = Field(1.0, gt=0.0)  # edits for each original in the mix
    edit: dict[str, Any]  # what ``overpaint edit`` takes, for all methods; checked as a Config
    methods: dict[str, list[str]] = Field(min_length=1)  # by name: "key=value" of edit
