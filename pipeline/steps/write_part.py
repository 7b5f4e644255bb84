"""Staging: a finished part is put whole, and only if no one has put it before."""

from __future__ import annotations

import hashlib
import io

import pyarrow as pa

from pipeline.records.part import Part
from pipeline.records.staged import PartHeader
from pipeline.storage.layout import StagedPart, marker_name
from pipeline.storage.store import Store


class DamagedPartError(ValueError):
    """A staged part is not what was staged: it is deleted and computed again."""


def write_part(store: Store, part: Part, fingerprint: str, code: str) -> bool:
    """Stages a finished part.

    The first staged part is the truth: where one is there already (the task ran twice, or another
    driver was faster), or the shard is published, this one is dropped.

    Args:
        store: of the output.
        part: with the ``table`` that ``finish`` made.
        fingerprint: of the run.
        code: hash of the sources that computed the part.

    Returns:
        Whether this call staged it.

    Raises:
        OSError: the store does not take it; the part stays undone.
    """
    if store.exists(marker_name(part.shard)):
        return False
    assert part.table is not None, "finish makes the table of every part"
    staged = to_ipc(with_header(part.table, part.header(fingerprint, code)))
    name = StagedPart(part.shard, part.index, part.num_parts, part.generation).name
    return store.put_if_absent(name, staged)


def with_header(table: pa.Table, header: PartHeader) -> pa.Table:
    """A staged part's table: its rows with their members, and the header in the metadata."""
    assert table.num_rows == header.num_rows, f"{table.num_rows} rows, not {header.num_rows}"
    return table.replace_schema_metadata({"part": header.to_json()})


def header_of(table: pa.Table) -> PartHeader:
    """The header of a staged part's table."""
    return PartHeader.from_json(table.schema.metadata[b"part"])


def to_ipc(table: pa.Table) -> bytes:
    """An Arrow IPC stream with the table's metadata, and the sha256 of the stream behind it."""
    sink = io.BytesIO()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    sink.write(hashlib.sha256(sink.getbuffer()).digest())
    return sink.getvalue()  # not a copy, as a sum of bytes would be


def from_ipc(data: bytes) -> pa.Table:
    """The inverse of ``to_ipc``.

    Raises:
        DamagedPartError: the bytes are not those that were written.
    """
    size = hashlib.sha256().digest_size
    stream, digest = memoryview(data)[:-size], data[-size:]  # the table is a view of the stream
    if hashlib.sha256(stream).digest() != digest:
        raise DamagedPartError("its bytes are not those that were staged")
    return pa.ipc.open_stream(pa.py_buffer(stream)).read_all()
