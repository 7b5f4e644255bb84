"""Parts as bytes, to keep and to compare."""

from __future__ import annotations

import copy

import pyarrow as pa

from pipeline.records.packing import PART_SCHEMA, pack, unpack
from pipeline.records.part import Part


def to_bytes(part: Part) -> bytes:
    """A part as bytes, equal for equal parts wherever their arrays lie."""
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, PART_SCHEMA) as writer:
        writer.write_table(pack(copy.deepcopy(part)))
    data: bytes = sink.getvalue().to_pybytes()
    return data


def from_bytes(data: bytes) -> Part:
    """The inverse of ``to_bytes``. Arrays are read-only, as they come from Ray."""
    return unpack(pa.ipc.open_stream(data).read_all())
