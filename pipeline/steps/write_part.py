"""Staging: a finished part is put whole, and only if no one has put it before."""

from __future__ import annotations

import io
import json
from typing import Any

import pyarrow as pa

from pipeline.records.part import Part
from pipeline.steps.finish import FinishContext, finish
from pipeline.storage.layout import marker_name, part_name
from pipeline.storage.store import Store


def write_part(store: Store, part: Part, table: pa.Table) -> bool:
    """Stages the table that ``finish`` made of a part.

    The first staged part is the truth: where one is there already (the task ran twice, or another
    driver was faster), or the shard is published, this one is dropped.

    Returns:
        Whether this call staged it.
    """
    if store.exists(marker_name(part.shard)):
        return False
    name = part_name(part.shard, part.index, part.num_parts)
    return store.put_if_absent(name, to_ipc(table))


def failed_part(
    part: Part, context: FinishContext, stage: str, error: str, message: str
) -> pa.Table:
    """The staged table of a part that could not be computed: every edit in flight is failed.

    Args:
        part: as read or prepared; nothing that was computed is taken from it.
        context: of the run.
        stage: where it was lost.
        error: kind of error.
        message: a sentence.
    """
    for sample in part.samples:
        sample.fail(stage, error, message)
    return finish(part, context)


def to_ipc(table: pa.Table) -> bytes:
    """An Arrow IPC stream with the table's metadata."""
    sink = io.BytesIO()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    return sink.getvalue()


def from_ipc(data: bytes) -> pa.Table:
    """The inverse of ``to_ipc``. Raises pyarrow.ArrowInvalid for bytes that are no stream."""
    return pa.ipc.open_stream(data).read_all()


def header_of(table: pa.Table) -> dict[str, Any]:
    """Which part a staged table is: shard, index, num_parts, num_rows, fingerprint, seconds, ..."""
    header: dict[str, Any] = json.loads(table.schema.metadata[b"part"])
    return header
