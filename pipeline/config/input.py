"""The section ``input`` of the configuration: which shards, and which file of a sample is what."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, field_validator

from pipeline.config.sections import Section

PASSED = (
    *("txt", "text", "json", "cls", "cls2", "index", "csv"),
    *("jpg", "jpeg", "png", "webp", "npy", "npz"),
)
# Formats that run code when a loader decodes them, as webdataset's decode() does.
PICKLES = frozenset({"pyd", "pkl", "pickle", "pth", "pt", "ckpt", "bin", "joblib", "dill"})


class Input(Section):
    """The shards to read, and which file of a sample is its image, caption, edit text and mask."""

    shards: str | list[str] = Field(
        description="Input tars (`.tar`, `.tar.gz`, `.tgz`, `.tar.zst`): a glob, a folder, a brace "
        "pattern such as `in/{00000..00099}.tar`, or a list of these. Local paths or urls of a "
        "store."
    )
    limit: int = Field(
        0,
        ge=0,
        description="Edits in the whole run; 0 takes all. Set 100 for a first look; it can "
        "be raised later in the same output.",
    )
    image: list[str] = Field(
        ["jpg", "jpeg", "png", "webp"],
        min_length=1,
        description="Suffixes of image files. The first one that a sample has is its image. "
        "`avif`, `jp2`, `j2k`, `tif`, `gif`, `bmp`, `ppm` and `pgm` are read as well, if named; of "
        "a suffix that names no format (`img`) the bytes decide.",
    )
    caption: list[str] = Field(
        ["txt", "json:caption"],
        description="Where the caption is: a suffix, or `json:FIELD` for a field of `key.json`. "
        "The first one that holds text is taken.",
    )
    edits: list[str] = Field(
        ["edit.txt", "json:edits", "json:edit"],
        description="Where the edit texts are, written as in `caption`; the first one present is "
        "taken. A file holds one text a line, a JSON field a text or a list.",
    )
    mask: str = Field(
        "mask.png",
        description="Suffix of a sample's own edit mask (white = edit), which replaces the "
        "inferred mask.",
    )
    boxes: str = Field(
        "boxes.json",
        description="Suffix of the file with the boxes of a sample, as `overpaint pack` writes it. "
        "They are written in pixels of the edited image; see `labels`.",
    )
    class_masks: list[str] = Field(
        ["seg.png"],
        description="Suffixes of masks whose values are classes or instances. They are resized "
        "like the image, without blending values; 0 in the padding.",
    )
    pass_through: list[str] = Field(
        list(PASSED),
        description="Last suffixes of a sample's other files that go into the output beside each "
        "edit. Files of other suffixes are left out, with a note in the row; pickles always are, "
        "since loaders run what is in them.",
    )
    substitutions: dict[str, list[str]] = Field(
        {},
        description="Makes edit texts from captions, for samples without: `{dog: [cat, fox]}` "
        "gives one text for each replacement. Whole words, in any case.",
    )
    key_split: Literal["dot", "suffix"] = Field(
        "dot",
        description="Where a file name splits into key and suffix. `dot`: at the first dot, as in "
        "WebDataset. `suffix`: at the longest suffix named here.",
    )
    on_bad_shard: Literal["publish", "fail"] = Field(
        "publish",
        description="A shard that cannot be read completely. `publish`: publish what could be "
        "read, with the reason. `fail`: leave it unpublished. One that is no tar always is.",
    )
    max_pixels: int = Field(
        100_000_000,
        ge=1,
        description="Largest width times height of an image. A larger one is a failed row and is "
        "not decoded.",
    )
    storage_options: dict[str, Any] = Field(
        default={},
        repr=False,
        description="Options of fsspec's file system for the input, such as endpoint and "
        "timeouts. They appear in no output and no log.",
    )

    @field_validator("pass_through")
    @classmethod
    def _no_pickles(cls, value: list[str]) -> list[str]:
        found = sorted({suffix.lower().rpartition(".")[2] for suffix in value} & PICKLES)
        if found:
            raise ValueError(
                f"{', '.join(found)}: a loader would run the code in such a file, so it is never "
                "passed through"
            )
        return value

    @field_validator("shards")
    @classmethod
    def _some_shards(cls, value: str | list[str]) -> str | list[str]:
        if not value:
            raise ValueError("name at least one shard, a glob such as 'in/*.tar', or a folder")
        return value
