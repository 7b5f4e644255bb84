"""Parquet files with the images in them, in the form that ``datasets`` shows as images.

The schema's metadata ``huggingface`` names the features, as ``datasets`` itself writes it.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from itertools import islice
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.mix.samples import MixedSample
from pipeline.records.rows import ROW_SCHEMA, SCORE
from pipeline.storage.content import Content, Span
from pipeline.storage.formats import file_of
from pipeline.storage.scratch import Spool

ROW_GROUP_ROWS = 100  # rows with images; a viewer reads a whole group
IMAGE = pa.struct([pa.field("bytes", pa.binary()), pa.field("path", pa.string())])
BOX = pa.struct(
    [
        pa.field("bbox", pa.list_(pa.float64())),  # x, y, width, height in pixels
        pa.field("category_id", pa.int64()),
        pa.field("category", pa.string()),
    ]
)
STRING, FLOAT = pa.string(), pa.float64()
SCORES = [name for name in ROW_SCHEMA.names if name.startswith(SCORE)]

MIXED = pa.schema(
    [
        pa.field("image", IMAGE),
        pa.field("text", STRING),
        pa.field("label", STRING),
        pa.field("objects", pa.list_(BOX)),
        pa.field("mask", IMAGE),
        pa.field("kind", STRING),
        pa.field("weight", FLOAT),
        pa.field("shard", STRING),
        pa.field("key", STRING),
        pa.field("source_sha256", STRING),
    ]
)
PAIRS = pa.schema(
    [
        pa.field("before", IMAGE),
        pa.field("after", IMAGE),
        pa.field("mask", IMAGE),
        pa.field("instruction", STRING),
        pa.field("caption_before", STRING),
        pa.field("caption_after", STRING),
        *(ROW_SCHEMA.field(name).remove_metadata() for name in SCORES),
        pa.field("mask_area", pa.float32()),
        pa.field("shard", STRING),
        pa.field("key", STRING),
        pa.field("edit_index", pa.int64()),
        pa.field("source_sha256", STRING),
        pa.field("model", STRING),
        pa.field("model_revision", STRING),
        pa.field("seed", pa.int64()),
    ]
)
NUMBERS = {pa.float64(): "float64", pa.float32(): "float32", pa.int64(): "int64"}


def mixed_row(sample: MixedSample, label_member: str) -> dict[str, Any]:
    """A row of ``MIXED``."""
    mask = sample.members.get("mask.png") if sample.record["kind"] == "edited" else None
    return {
        "image": as_image(sample.image, f"{sample.key}.{sample.suffix}"),
        "text": sample.text,
        "label": sample.label(label_member),
        "objects": None if sample.boxes is None else _objects(sample.boxes),
        "mask": None if mask is None else as_image(mask, f"{sample.key}.mask.png"),
        **{name: sample.record[name] for name in ("kind", "weight", "shard", "key")},
        "source_sha256": sample.record["source_sha256"],
    }


def as_image(data: bytes | Span, path: str) -> dict[str, Any]:
    return {"bytes": bytes(data), "path": path}


def spooled_table(rows: Iterable[dict[str, Any]], schema: pa.Schema) -> Spool:
    """A Parquet file; equal rows give equal bytes. One row group is in memory at a time."""
    info = {"info": {"features": features_of(schema)}}
    schema = schema.with_metadata({"huggingface": json.dumps(info)})
    spool, waiting = Spool(), iter(rows)
    with pq.ParquetWriter(spool.sink(), schema) as writer:
        while group := list(islice(waiting, ROW_GROUP_ROWS)):
            writer.write_table(pa.Table.from_pylist(group, schema=schema))
    return spool


def features_of(schema: pa.Schema) -> dict[str, Any]:
    """The features of ``datasets`` for a schema's columns, as it writes them to JSON."""
    return {item.name: _feature(item.type) for item in schema}


def num_rows(data: Content) -> int:
    """Raises OSError or pa.ArrowException for what is no Parquet file."""
    return pq.ParquetFile(file_of(data)).metadata.num_rows


def _feature(kind: pa.DataType) -> Any:
    if kind == IMAGE:
        return {"_type": "Image"}
    if pa.types.is_list(kind):
        return {"feature": _feature(kind.value_type), "_type": "List"}
    if pa.types.is_struct(kind):
        return {item.name: _feature(item.type) for item in kind}
    return {"dtype": NUMBERS.get(kind, "string"), "_type": "Value"}


def _objects(boxes: dict[str, Any]) -> list[dict[str, Any]]:
    names = {one["id"]: one["name"] for one in boxes["categories"]}
    return [
        {
            "bbox": [float(side) for side in box["bbox"]],
            "category_id": box.get("category_id"),
            "category": names.get(box.get("category_id")),
        }
        for box in boxes["annotations"]
    ]
