"""How a part travels between processes: one Arrow row whose buffers are the part's arrays.

The row of ``PART_SCHEMA`` has a text with everything that is small, and one binary column for each
field of arrays or files, in which the values of all records stand one behind the other:

* Packing copies no array that lies there already: arrays that are consecutive rows of one array
  (what a stage downloads together, and what ``unpack`` gives) become the column's buffer as they
  are. Others are copied once.
* Ray writes the buffers of a block into its shared memory, and reads them from there in place.
  ``unpack`` gives views of them, so they are read-only, and keep that memory in use.

A column is binary and not a tensor type: samples may set their own ``encode_ratio``, so the
trajectories of one part differ in length, and failed images have none.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, fields
from typing import Any, SupportsBytes, TypeAlias

import numpy as np
import pyarrow as pa

from pipeline.records.part import Edit, Part, Sample, Status
from pipeline.records.staged import PartHeader

# By record: its fields of arrays, and its fields of files as they were read.
ARRAYS = {
    "sample": ("image", "supplied_mask", "latent", "trajectory"),
    "edit": ("mask", "difference", "image", "embedding", "adapter", "candidates"),
}
FILES = ("encoded", "encoded_mask", "extras")  # of a sample
APART = {"edits", *FILES, *ARRAYS["sample"], *ARRAYS["edit"]}  # fields not in the text as they are
PLACE = 64  # a copied array begins at a multiple of this, as in Arrow; no dtype needs more

PART_COLUMNS: dict[str, pa.DataType] = {
    "shard": pa.string(),
    "part": pa.int32(),
    "records": pa.string(),  # JSON: the header, the samples, their edits
    **{f"sample.{name}": pa.large_binary() for name in (*ARRAYS["sample"], *FILES)},
    **{f"edit.{name}": pa.large_binary() for name in ARRAYS["edit"]},
}
PART_SCHEMA = pa.schema(PART_COLUMNS)

Row = dict[str, Any]
Column: TypeAlias = "pa.Array[Any]"
Place = list[int]  # first byte and size of a file in its column


def pack(part: Part) -> pa.Table:
    """The part as one row of ``PART_SCHEMA``.

    For a part that is on its way; what finishing made of it stays behind. The row may share memory
    with the part's arrays, so nothing may write to them any more.
    """
    assert part.table is None, "a finished part is committed where it was finished"
    samples = [_plain(sample) for sample in part.samples]
    edits = [[_plain(edit) for edit in sample.edits] for sample in part.samples]
    columns = _array_columns("sample", part.samples, samples)
    columns |= _array_columns("edit", part.edits, [row for rows in edits for row in rows])
    columns |= _file_columns(part.samples, samples)
    for row, of_sample in zip(samples, edits, strict=True):
        row["edits"] = of_sample
    text = json.dumps({"header": asdict(part.header()), "samples": samples})
    values: dict[str, Column] = {
        "shard": pa.array([part.shard]),
        "part": pa.array([part.index], pa.int32()),
        "records": pa.array([text]),
    }
    arrays = [values[name] if name in values else columns[name] for name in PART_COLUMNS]
    return pa.Table.from_arrays(arrays, schema=PART_SCHEMA)


def unpack(table: pa.Table) -> Part:
    """The inverse of ``pack``. Arrays are read-only views of the table's buffers; files are copies.

    Args:
        table: one row of ``PART_SCHEMA``.
    """
    assert table.num_rows == 1, f"a call takes one part, not {table.num_rows}"
    columns = {name: _bytes_of(table.column(name)) for name in PART_COLUMNS if "." in name}
    tree = json.loads(table.column("records")[0].as_py())
    header = PartHeader(**tree["header"])
    return Part(
        shard=header.shard,
        index=header.index,
        num_parts=header.num_parts,
        samples=[_sample(row, columns) for row in tree["samples"]],
        problem=header.problem,
        input_sha256=header.input_sha256,
        generation=header.generation,
        seconds=header.seconds,
        hosts=header.hosts,
        device=header.device,
        halvings=header.halvings,
    )


def _plain(record: Sample | Edit) -> Row:
    """The fields of a record that the text holds as they are."""
    return {
        item.name: getattr(record, item.name) for item in fields(record) if item.name not in APART
    }


def _array_columns(
    kind: str, records: Sequence[Sample] | Sequence[Edit], rows: list[Row]
) -> dict[str, Column]:
    """The columns of a kind of record; writes into each row where its arrays are."""
    columns = {}
    for name in ARRAYS[kind]:
        values = [getattr(record, name) for record in records]
        held = [index for index, value in enumerate(values) if value is not None]
        joined, starts = join([values[index] for index in held])
        columns[f"{kind}.{name}"] = _column(joined)
        for index, start in zip(held, starts, strict=True):
            array = values[index]
            rows[index][name] = [array.dtype.str, array.shape, start]
    return columns


def _file_columns(samples: list[Sample], rows: list[Row]) -> dict[str, Column]:
    """The columns of the samples' files; writes into each row where they are."""
    columns = {}
    for name in FILES:
        content = bytearray()
        for sample, row in zip(samples, rows, strict=True):
            value = getattr(sample, name)
            if isinstance(value, Mapping):
                row[name] = {suffix: _placed(file, content) for suffix, file in value.items()}
            elif value is not None:
                row[name] = _placed(value, content)
        columns[f"sample.{name}"] = _column(np.frombuffer(content, np.uint8))
    return columns


def _placed(file: SupportsBytes, content: bytearray) -> Place:
    """Adds a file; one that is a range of the shard is read now."""
    start = len(content)
    content += bytes(file)
    return [start, len(content) - start]


def join(arrays: Sequence[np.ndarray]) -> tuple[np.ndarray, list[int]]:
    """Arrays one behind the other, without a copy if they lie so already.

    Returns:
        (B,) uint8: a view if all are consecutive rows of one array, else a copy. And the first byte
        of each array in it, which suits the array's dtype.
    """
    found = _span(arrays)
    if found is not None:
        return found
    starts = [0, *itertools.accumulate(-(-array.nbytes // PLACE) * PLACE for array in arrays)]
    # Arrow's allocator keeps freed memory; from numpy each part's would come from the system anew.
    memory: Any = pa.allocate_buffer(starts[-1])
    joined = np.frombuffer(memory, np.uint8)
    for array, (start, after) in zip(arrays, itertools.pairwise(starts), strict=True):
        end = start + array.nbytes
        np.copyto(joined[start:end].view(array.dtype).reshape(array.shape), array)
        joined[end:after] = 0
    return joined, starts[:-1]


def _span(arrays: Sequence[np.ndarray]) -> tuple[np.ndarray, list[int]] | None:
    """The bytes of one array that these arrays are consecutive pieces of; None if they are not."""
    if not arrays:
        return np.empty(0, np.uint8), []
    whole = _owner(arrays[0])
    if not whole.flags.c_contiguous:
        return None
    first = after = _address(arrays[0])
    starts = []
    for array in arrays:
        here = _address(array)
        if here != after or not array.flags.c_contiguous or _owner(array) is not whole:
            return None
        if (here - first) % array.itemsize:
            return None
        starts.append(here - first)
        after = here + array.nbytes
    begin = first - _address(whole)
    return whole.reshape(-1).view(np.uint8)[begin : begin + after - first], starts


def _owner(array: np.ndarray) -> np.ndarray:
    """The array that an array is a view of."""
    while isinstance(array.base, np.ndarray):
        array = array.base
    return array


def _address(array: np.ndarray) -> int:
    address: int = array.__array_interface__["data"][0]
    return address


def _column(content: Any) -> Column:
    """A binary column of one row over the content, (B,) uint8, which is not copied."""
    ends: Any = np.array([0, len(content)], np.int64)
    buffers = [None, pa.py_buffer(ends), pa.py_buffer(content)]
    return pa.Array.from_buffers(pa.large_binary(), 1, buffers)


def _bytes_of(column: pa.ChunkedArray[Any]) -> np.ndarray:
    """(B,) uint8: the only value of a binary column, as a read-only view."""
    value: Any = column.chunk(0)
    _, ends, content = value.buffers()  # value[0] would copy it
    first, after = np.frombuffer(ends, np.int64)[value.offset : value.offset + 2]
    view = np.frombuffer(content, np.uint8)[first:after]
    view.flags.writeable = False  # also where the buffer is memory of this process
    return view


def _sample(row: Row, columns: Mapping[str, np.ndarray]) -> Sample:
    for name in FILES:
        content = columns[f"sample.{name}"]
        place = row.get(name)
        if isinstance(place, list):
            row[name] = _file(place, content)
        elif place is not None:
            row[name] = {suffix: _file(file, content) for suffix, file in place.items()}
    edits = [_edit(edit, columns) for edit in row.pop("edits")]
    return Sample(**_with_arrays("sample", row, columns), edits=edits)


def _edit(row: Row, columns: Mapping[str, np.ndarray]) -> Edit:
    if row["status"] is not None:
        row["status"] = Status(row["status"])
    return Edit(**_with_arrays("edit", row, columns))


def _with_arrays(kind: str, row: Row, columns: Mapping[str, np.ndarray]) -> Row:
    for name in ARRAYS[kind]:
        if name in row:
            dtype, shape, start = row[name]
            row[name] = np.ndarray(shape, dtype, columns[f"{kind}.{name}"], start)
    return row


def _file(place: Place, content: np.ndarray) -> bytes:
    start, size = place
    return content[start : start + size].tobytes()
