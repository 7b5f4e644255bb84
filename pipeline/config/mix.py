"""The settings of ``overpaint mix``: how many edits join the originals, and in which splits."""

from __future__ import annotations

import re
from typing import Any, Literal

from pydantic import Field, field_validator, model_validator

from pipeline.config.input import Input
from pipeline.config.sections import Count, Section
from pipeline.config.spelling import did_you_mean

SPLIT_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]*")


class Edited(Section):
    """Outputs of `overpaint edit`, all made from the same input shards."""

    paths: list[str] = Field(
        min_length=1, description="Folders or urls of the outputs; set by `--edited`."
    )
    storage_options: dict[str, Any] = Field(
        default={}, repr=False, description="Options of fsspec's file system for them."
    )


class MixOutput(Section):
    """Where the training shards go."""

    path: str = Field(description="Folder or url; set by the command's first argument.")
    storage_options: dict[str, Any] = Field(
        default={}, repr=False, description="Options of fsspec's file system for it."
    )


class Mix(Section):
    """The configuration of a run of `overpaint mix`."""

    input: Input  # the originals; keys not given are those of the run that made the first output
    edited: Edited
    output: MixOutput
    format: Literal["webdataset", "imagefolder", "coco", "yolo", "parquet", "pairs"] = Field(
        "webdataset",
        description="What is written. `webdataset`: tars. `imagefolder`: a folder for each class, "
        "and `metadata.jsonl`. `coco`: images, `annotations/instances_*.json` of those with boxes, "
        "`annotations/captions_*.json`. `yolo`: `images`, `labels`, `data.yaml`; images without "
        "boxes are left out. `parquet`: rows with the images in them. `pairs`: what `overpaint "
        "pairs` writes.",
    )
    ratio: float | None = Field(
        1.0,
        ge=0.0,
        description="Edits for each original of a split; null takes all, as pairs always do.",
    )
    splits: dict[str, float] = Field(
        {"train": 1.0},
        description="Splits by name, with their shares of the source images. The shares add up to "
        "1.",
    )
    edits_in: list[str] = Field(
        [], description="Splits that take edits; an empty list means the first split."
    )
    labels: dict[str, int | str] = Field(
        {},
        description="Classes by word (or words): an edit takes the class of the word that its edit "
        "text has, an original without a class that of its caption. Empty: an edit keeps the class "
        "of its source, and an original its own.",
    )
    label_member: str = Field("cls", description="Suffix of the file that holds the class.")
    seed: int = Field(0, ge=0, lt=2**63, description="Seed of the choice and of the order.")
    workers: Count = Field(
        4, description="Shards that are mixed at once, each on scratch disk. Changes no byte."
    )

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
                f"{', '.join(self.splits)}{did_you_mean(unknown[0], self.splits)}"
            )
        return self

    @model_validator(mode="after")
    def _pairs_take_all_edits(self) -> Mix:
        is_given = "ratio" in self.model_fields_set and self.ratio is not None
        if self.format == "pairs" and is_given:
            raise ValueError(f"ratio={self.ratio:g}: pairs have no originals; leave it out")
        return self

    @property
    def edited_splits(self) -> list[str]:
        """The splits that take edits, in the order of ``splits``."""
        named = self.edits_in or [next(iter(self.splits))]
        return [name for name in self.splits if name in named]
