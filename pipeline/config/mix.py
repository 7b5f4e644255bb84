"""The settings of ``overpaint mix``: which edits join the originals, and which split each is in."""

from __future__ import annotations

import re
from typing import Any

from pydantic import Field, field_validator, model_validator

from pipeline.config.config import Input
from pipeline.config.sections import Count, Section

SPLIT_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]*")


class Edited(Section):
    """Outputs of ``overpaint edit``, all of the same input shards."""

    paths: list[str] = Field(min_length=1)
    storage_options: dict[str, Any] = Field(default={}, repr=False)


class MixOutput(Section):
    """Where the training shards go."""

    path: str
    storage_options: dict[str, Any] = Field(default={}, repr=False)


class Mix(Section):
    """One mix of originals and edits."""

    input: Input  # the originals; what is not given is as the first edited output has read it
    edited: Edited
    output: MixOutput
    ratio: float = Field(1.0, ge=0.0, allow_inf_nan=False)  # edits for each original of a split
    splits: dict[str, float] = {"train": 1.0}  # shares of the source images, 1 in all
    edits_in: list[str] = []  # the splits that take edits; none named: the first one
    # A word (or words) of an edit text, and the class of an edit whose text has it. Without any,
    # an edit keeps the class of its source.
    labels: dict[str, int | str] = {}
    label_member: str = "cls"
    seed: int = Field(0, ge=0, lt=2**63)
    workers: Count = 4  # shards at once, each in memory; changes no byte

    @field_validator("splits")
    @classmethod
    def _shares(cls, value: dict[str, float]) -> dict[str, float]:
        bad = [name for name in value if not SPLIT_NAME.fullmatch(name)]
        if bad:
            raise ValueError(f"{bad[0]!r} names no split: allowed are letters, digits, - and _")
        total = sum(value.values())
        if not value or min(value.values()) <= 0 or abs(total - 1) > 1e-6:
            raise ValueError(f"shares must be above 0 and add up to 1, not to {total:g}")
        return value

    @model_validator(mode="after")
    def _edits_in_splits(self) -> Mix:
        unknown = [name for name in self.edits_in if name not in self.splits]
        if unknown:
            raise ValueError(
                f"edits_in={self.edits_in}: {unknown[0]!r} is no split; there are "
                f"{', '.join(self.splits)}"
            )
        return self

    @property
    def edited_splits(self) -> list[str]:
        """The splits that take edits, in the order of ``splits``."""
        named = self.edits_in or [next(iter(self.splits))]
        return [name for name in self.splits if name in named]
