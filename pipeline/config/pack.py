"""The settings of ``overpaint pack``: where captions, edit texts and classes are."""

from __future__ import annotations

import re
from typing import Any, Literal

from pydantic import Field, field_validator

from pipeline.config.sections import Count, Section, Share

SUFFIX = re.compile(r"[a-z0-9]+")


class Pack(Section):
    """How images, captions, edit texts and classes are found, and how they are cut into shards."""

    format: Literal["auto", "table", "classes", "coco", "yolo", "dataset"] = Field(
        "auto",
        description="What the sources are. `auto` looks: a table (`.csv`, `.tsv`, `.jsonl`, "
        "`.parquet`) named or in the folder, COCO's JSON named, a YOLO folder (`images`, "
        "`labels`), a data set of Hugging Face's with the images in it (Parquet files, or what "
        "`save_to_disk` writes), else a folder for each class.",
    )
    images: str | None = Field(
        None,
        description="Folder or url of the images, where they do not lie beside their table or "
        "annotations.",
    )
    image: str | None = Field(
        None,
        description="Column with the image's path, relative to the folder of the images. Default: "
        "the first of `file_name`, `image`, `filename`, `file`, `path` that the table has.",
    )
    caption: str | None = Field(
        None,
        description="Column with the caption. Default: the first of `caption`, `text` that the "
        "table has.",
    )
    edits: str | list[str] | None = Field(
        None,
        description="Column or columns with edit texts: one text a line, or a list. Default: the "
        "first of `edits`, `edit`, `edit_text` that the table has.",
    )
    label: str | None = Field(
        None,
        description="Column with the class. Numbers are kept; texts are numbered in sorted order, "
        "as `classes.json` lists them.",
    )
    extras: list[str] = Field(
        [], description="Columns that are kept in `key.json`, below `pack.columns`."
    )
    template: str = Field(
        "a photo of a {class}",
        description="Caption of an image that has a class but no caption; `{class}` is its name "
        "with spaces for `_`, or the names of all its boxes, joined by `and`.",
    )
    class_masks: bool = Field(
        False,
        description="Also write `key.seg.png`, a mask of the categories that COCO's polygons and "
        "run lengths draw. It follows the image through an edit.",
    )
    suffixes: list[str] = Field(
        ["jpg", "jpeg", "png", "webp"],
        min_length=1,
        description="Suffixes of files that are images. To edit others than these, name them in "
        "`input.image` too.",
    )
    samples_per_shard: Count = Field(
        1000, description="Samples in a shard, at most; the shards are of even size."
    )
    max_left_out_share: Share = Field(
        0.0,
        description="Share of images and rows that may be left out. Above it the exit code is 1; "
        "what is left out is counted and named either way.",
    )

    @field_validator("template")
    @classmethod
    def _names_the_class(cls, value: str) -> str:
        if "{class}" not in value:
            raise ValueError("it must have {class} in it, where the name of the class goes")
        return value

    @field_validator("suffixes")
    @classmethod
    def _plain_suffixes(cls, value: list[str]) -> list[str]:
        bad = [suffix for suffix in value if not SUFFIX.fullmatch(suffix)]
        if bad:
            raise ValueError(f"{bad[0]!r}: a suffix is written in lower case and without its dot")
        return value


class PackSource(Section):
    """What is packed."""

    paths: list[str] = Field(
        min_length=1,
        description="Folders, tables or COCO's JSON files, as paths or urls; set by the command's "
        "arguments.",
    )
    storage_options: dict[str, Any] = Field(
        default={}, repr=False, description="Options of fsspec's file system for them."
    )


class PackOutput(Section):
    """Where the shards go."""

    path: str = Field(description="Folder or url; set by the command's first argument.")
    storage_options: dict[str, Any] = Field(
        default={}, repr=False, description="Options of fsspec's file system for it."
    )


class PackRun(Section):
    """Where a pack runs. Nothing here changes what is written."""

    on_ray: Literal["auto", "always", "never"] = Field(
        "auto",
        description="Write the shards as tasks on Ray. `auto`: where a source lies in object "
        "storage; else one process writes them, one after the other.",
    )
    address: str | None = Field(
        None,
        description="Address of a Ray cluster; null takes `RAY_ADDRESS`, or starts a local Ray.",
    )
    num_cpus: int | None = Field(
        None, ge=1, description="CPUs of the local Ray; null takes all of the machine."
    )


class Packing(Section):
    """The configuration of a run of `overpaint pack`."""

    pack: Pack = Pack.model_validate({})
    run: PackRun = PackRun.model_validate({})
    source: PackSource
    output: PackOutput
