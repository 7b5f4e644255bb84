"""A published shard as the staged parts that it was built from: how republishing takes it apart."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.records.rows import ROW_SCHEMA, STAGED_SCHEMA
from pipeline.records.staged import PartHeader
from pipeline.steps.filter import without_filters
from pipeline.steps.publish import ShardStats, read_marker
from pipeline.steps.write_part import to_ipc, with_header
from pipeline.storage.archive import read_members
from pipeline.storage.layout import marker_name, parquet_name, part_name, rejected_name, tar_name
from pipeline.storage.store import Store

Rows = list[dict[str, Any]]


class NotTheSameError(ValueError):
    """A published shard cannot be taken apart: what is there is not what was published."""


@dataclass(frozen=True)
class Generation:
    """All that was in the staged parts of a published shard."""

    stats: ShardStats
    rows: Rows  # as computed, without filters
    members: dict[str, Rows]  # by output key, kept and rejected ones alike


def read_generation(output: Store, shard: str) -> Generation:
    """Reads marker, Parquet file and both tars, all of one generation.

    Raises:
        FileNotFoundError: the shard is not published.
        NotTheSameError: an object is not what the marker says.
    """
    stats = read_marker(output, shard)
    if stats is None:
        raise FileNotFoundError(marker_name(shard))
    rows = [without_filters(row) for row in read_rows(output, stats).to_pylist()]
    tars = [_checked(output, tar_name(shard), stats.tar_sha256)]
    if stats.rejected_sha256 is not None:
        tars.append(_checked(output, rejected_name(shard), stats.rejected_sha256))
    members: dict[str, Rows] = {}
    for tar in tars:
        for name, data in read_members(tar)[0]:
            key, _, suffix = name.partition(".")
            members.setdefault(key, []).append({"suffix": suffix, "data": data})
    return Generation(stats, rows, members)


def read_rows(output: Store, stats: ShardStats) -> pa.Table:
    """The published rows of a shard.

    Raises:
        NotTheSameError: the Parquet file is not what the marker says, or of another schema.
    """
    data = _checked(output, parquet_name(stats.shard), stats.parquet_sha256)
    table = pq.read_table(io.BytesIO(data))
    if not table.schema.equals(ROW_SCHEMA):
        raise NotTheSameError("the Parquet file has another schema than this version's rows")
    return table


def stage_part(
    output: Store,
    generation: Generation,
    index: int,
    rows: Sequence[dict[str, Any]],
    *,
    with_totals: bool,
) -> None:
    """Stages a part, if absent, as ``finish`` made it.

    Args:
        output: of the run.
        generation: that the rows are of.
        index: of the part.
        rows: of the part, as ``Generation.rows`` has them.
        with_totals: what is summed over the parts (seconds, halvings) is known as a sum only, so
            one part has it all, and the others have none.
    """
    stats = generation.stats
    header = PartHeader(
        shard=stats.shard,
        index=index,
        num_parts=stats.num_parts,
        num_rows=len(rows),
        fingerprint=stats.fingerprint,
        problem=stats.problem,
        seconds=stats.seconds if with_totals else {},
        hosts=stats.hosts,
        device=", ".join(stats.devices) or None,  # which of them is known no more
        halvings=stats.halvings if with_totals else {},
    )
    staged = [row | {"members": generation.members.get(row["output_key"], [])} for row in rows]
    table = with_header(pa.Table.from_pylist(staged, schema=STAGED_SCHEMA), header)
    output.put_if_absent(part_name(stats.shard, index, stats.num_parts), to_ipc(table))


def _checked(output: Store, name: str, digest: str) -> bytes:
    data = output.get(name)
    if hashlib.sha256(data).hexdigest() != digest:
        raise NotTheSameError(f"{name} is not what its marker says")
    return data
