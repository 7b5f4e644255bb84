"""The rows that a user reads: the schemas of the published Parquet file and of a staged part.

Nothing in a row varies from run to run; times and hosts go into the marker. So tar and Parquet file
depend on input, configuration, model and code alone.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, fields
from typing import Any

import pyarrow as pa

STRING, STRINGS = pa.string(), pa.list_(pa.string())
INT32, INT32S, INT64 = pa.int32(), pa.list_(pa.int32()), pa.int64()
FLOAT32, FLOAT32S = pa.float32(), pa.list_(pa.float32())


def required(kind: pa.DataType, meaning: str) -> Any:
    """A column that every row has. ``meaning`` goes into the Parquet file's metadata."""
    return field(metadata={"kind": kind, "nullable": False, "meaning": meaning})


def nullable(kind: pa.DataType, meaning: str) -> Any:
    """A column that is null where the row has no such value."""
    return field(default=None, metadata={"kind": kind, "nullable": True, "meaning": meaning})


@dataclass(kw_only=True)
class Row:
    """One requested edit, whatever its outcome. The fields are the columns of the file."""

    shard: str = required(STRING, "input shard: its path below the common prefix, without .tar")
    key: str = required(STRING, "the sample's key in that shard")
    edit_index: int = required(INT32, "from 0 within the sample; -1: the sample has no edit")
    output_key: str | None = nullable(
        STRING, "key of the edit's files in the tar; of a rejected edit in the tar of _rejected/"
    )
    status: str = required(STRING, "edited, unchanged, rejected, skipped or failed")
    stage: str | None = nullable(
        STRING, "where the edit failed, was skipped, rejected or found unchanged"
    )
    error: str | None = nullable(STRING, "the kind of error, or the filter that rejected the edit")
    message: str | None = nullable(STRING, "the reason, in a sentence")
    notes: list[str] = required(STRINGS, "further remarks, e.g. that a text was truncated")
    caption: str | None = nullable(STRING, "what is there (the paper's reference text)")
    edit_text: str | None = nullable(STRING, "what is wanted (the paper's query text)")
    source_sha256: str | None = nullable(STRING, "sha256 of the image file in the input")
    source_width: int | None = nullable(INT32, "pixels, after EXIF rotation")
    source_height: int | None = nullable(INT32, "pixels, after EXIF rotation")
    model_width: int | None = nullable(INT32, "pixels, of the image that the model saw")
    model_height: int | None = nullable(INT32, "pixels, of the image that the model saw")
    image_sha256: str | None = nullable(STRING, "sha256 of the image file in the tar")
    width: int | None = nullable(INT32, "pixels, of the written image")
    height: int | None = nullable(INT32, "pixels, of the written image")
    mask_area: float | None = nullable(FLOAT32, "share of the written image inside the edit mask")
    mask_box: list[int] | None = nullable(
        INT32S, "x0, y0, x1, y1 of the mask in pixels of the output"
    )
    boxes_covered: list[float | None] | None = nullable(
        FLOAT32S, "share of each box inside the mask: 0 is untouched, null is cut off"
    )
    score_edit_rms: float | None = nullable(
        FLOAT32, "root mean square change inside the mask, in [0, 1]"
    )
    score_background_psnr_db: float | None = nullable(
        FLOAT32, "PSNR outside the mask, before the composite"
    )
    score_background_ssim: float | None = nullable(
        FLOAT32, "SSIM outside the mask, in background windows"
    )
    score_background_mse: float | None = nullable(
        FLOAT32, "MSE outside the mask, of values in [0, 1]"
    )
    score_background_psnr_frame_db: float | None = nullable(
        FLOAT32, "PIE-Bench's PSNR, over the full frame"
    )
    score_background_ssim_frame: float | None = nullable(
        FLOAT32, "PIE-Bench's SSIM, over the full frame"
    )
    score_background_mse_frame: float | None = nullable(
        FLOAT32, "PIE-Bench's MSE, over the full frame"
    )
    score_lpips: float | None = nullable(
        FLOAT32, "perceptual distance of the images before and after"
    )
    score_clip_text_before: float | None = nullable(
        FLOAT32, "cosine of the image before and the caption"
    )
    score_clip_text_after: float | None = nullable(
        FLOAT32, "cosine of the image after and the edit text"
    )
    score_clip_image: float | None = nullable(FLOAT32, "cosine of the images before and after")
    score_clip_directional: float | None = nullable(
        FLOAT32, "cosine of the changes of image and text"
    )
    score_dino_structure: float | None = nullable(
        FLOAT32, "distance of self-similarities of DINO's keys"
    )
    score_dinov2_image: float | None = nullable(FLOAT32, "cosine of the images before and after")
    score_aesthetic: float | None = nullable(FLOAT32, "aesthetic score of the image after")
    score_nsfw: float | None = nullable(
        FLOAT32, "probability that the image after is not safe for work"
    )
    num_evals_mask: int = required(INT32, "network evaluations of the mask stage")
    num_evals_encode: int = required(INT32, "of encoding, on the image's first edit; or of a fit")
    num_evals_decode: int = required(INT32, "of decoding and choosing, guidance counted as two")
    method: str = required(STRING, "diffedit, sdedit or imagic")
    settings: str = required(STRING, "JSON: every setting of the method as used for this row")
    model: str = required(STRING, "model.path of the configuration")
    model_revision: str = required(STRING, "hub commit, or sha256 of a local folder's files")
    seed: int = required(INT64, "the run's seed, or the sample's own")
    fingerprint: str = required(STRING, "hash of everything that changes computed bytes")


# (name, type, nullable, meaning). A test compares the documents' table of columns with this one.
COLUMNS: list[tuple[str, pa.DataType, bool, str]] = [
    (item.name, item.metadata["kind"], item.metadata["nullable"], item.metadata["meaning"])
    for item in fields(Row)
]

# Columns that outputs of an earlier version lack, in the schema's order.
ADDED = ("model_width", "model_height", "boxes_covered")

SCORE = "score_"  # prefix of every score's column
LOWER_IS_BETTER = frozenset(
    f"{SCORE}{name}"
    for name in ("background_mse", "background_mse_frame", "lpips", "dino_structure", "nsfw")
)
NEITHER_IS_BETTER = frozenset({f"{SCORE}edit_rms"})


def _metadata(name: str, meaning: str) -> dict[str, str]:
    """The metadata of a column in the Parquet file."""
    if not name.startswith(SCORE) or name in NEITHER_IS_BETTER:
        return {"meaning": meaning}
    return {"meaning": meaning, "better": "lower" if name in LOWER_IS_BETTER else "higher"}


ROW_SCHEMA = pa.schema(
    [
        pa.field(name, kind, nullable=is_nullable, metadata=_metadata(name, meaning))
        for name, kind, is_nullable, meaning in COLUMNS
    ]
)

# A staged part: its rows, each with its members in their order in the tar. The schema's metadata
# "part" holds the JSON of a ``PartHeader``.
MEMBERS = pa.list_(
    pa.struct([pa.field("suffix", pa.string()), pa.field("data", pa.large_binary())])
)
STAGED_SCHEMA = ROW_SCHEMA.append(pa.field("members", MEMBERS, nullable=False))


def completed(table: pa.Table) -> pa.Table:
    """A table of rows with this version's columns: what it was written without is null.

    Args:
        table: published, or of a staged part. Any column but those of ``ADDED`` may be missing; it
            stays so.
    """
    for name in ADDED:
        if table.schema.get_field_index(name) < 0:  # not column_names: one may be no text
            column = ROW_SCHEMA.field(name)
            place = min(ROW_SCHEMA.get_field_index(name), table.num_columns)
            table = table.add_column(place, column, pa.nulls(table.num_rows, column.type))
    return table


def rows_of(table: pa.Table) -> list[Row]:
    """The rows of a table that has the columns of ``ROW_SCHEMA``."""
    return [Row(**row) for row in table.select(ROW_SCHEMA.names).to_pylist()]


def table_of(rows: Iterable[Row]) -> pa.Table:
    """The inverse of ``rows_of``."""
    return pa.Table.from_pylist([vars(row) for row in rows], schema=ROW_SCHEMA)


def staged_table(rows: Sequence[Row], members: Sequence[list[dict[str, Any]]]) -> pa.Table:
    """The table of a staged part: ``STAGED_SCHEMA``.

    Args:
        rows: of the part.
        members: files of each row as {"suffix": str, "data": bytes}; empty if it writes none.
    """
    staged = [vars(row) | {"members": own} for row, own in zip(rows, members, strict=True)]
    return pa.Table.from_pylist(staged, schema=STAGED_SCHEMA)
