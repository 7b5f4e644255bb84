"""Takes a published shard apart into the staged parts that it was built from."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.records.rows import ROW_SCHEMA, Row, completed, rows_of, staged_table
from pipeline.records.staged import PartHeader
from pipeline.steps.filter import without_filters
from pipeline.steps.marker import ShardStats, read_marker
from pipeline.steps.write_part import to_ipc, with_header
from pipeline.storage.archive import find_samples
from pipeline.storage.content import Content, Span, sha256_of
from pipeline.storage.layout import StagedPart, marker_name, parquet_name, rejected_name, tar_name
from pipeline.storage.store import Store


class NotTheSameError(ValueError):
    """A published shard cannot be taken apart: its objects are not those that were published."""


@dataclass(frozen=True)
class Generation:
    """Everything that was in the staged parts of a published shard."""

    stats: ShardStats
    rows: list[Row]  # as computed, without filters
    # Files by output key and suffix, of kept and rejected ones alike, as ranges of their tars.
    members: dict[str, dict[str, Span]]


def read_generation(output: Store, shard: str) -> Generation:
    """Reads the marker, the Parquet file and both tars, and checks that they belong together.

    Raises:
        FileNotFoundError: the shard is not published.
        NotTheSameError: an object differs from what the marker says.
    """
    stats = read_marker(output, shard)
    if stats is None:
        raise FileNotFoundError(marker_name(shard))
    rows = [without_filters(row) for row in rows_of(read_rows(output, stats))]
    members = find_samples(_checked(output, tar_name(shard), stats.tar_sha256))
    if stats.rejected_sha256 is not None:
        rejected = _checked(output, rejected_name(shard), stats.rejected_sha256)
        members |= find_samples(rejected)
    return Generation(stats, rows, members)


def read_rows(output: Store, stats: ShardStats) -> pa.Table:
    """The published rows of a shard.

    Raises:
        NotTheSameError: the Parquet file differs from the marker, or has another schema.
    """
    data = _checked(output, parquet_name(stats.shard), stats.parquet_sha256)
    table = completed(pq.read_table(io.BytesIO(data[:])))
    if not table.schema.equals(ROW_SCHEMA):
        raise NotTheSameError("the Parquet file has another schema than this version's rows")
    return table


def stage_part(
    output: Store,
    generation: Generation,
    index: int,
    rows: Sequence[Row],
    *,
    with_totals: bool,
) -> None:
    """Stages a part as ``finish`` made it, if it is absent.

    Args:
        output: of the run.
        generation: of the shard.
        index: of the part.
        rows: of the part, as ``Generation.rows`` has them.
        with_totals: the marker knows seconds and halvings only as sums over the parts, so one part
            gets them all and the others none.
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
        device=", ".join(stats.devices) or None,  # which part had which is no longer known
        halvings=stats.halvings if with_totals else {},
        code=", ".join(stats.codes),  # likewise
        input_sha256=stats.input_sha256,
        generation=stats.generation,
    )
    found = (generation.members.get(row.output_key or "", {}) for row in rows)
    members = [
        [{"suffix": suffix, "data": bytes(data)} for suffix, data in files.items()]
        for files in found
    ]
    table = with_header(staged_table(rows, members), header)
    part = StagedPart(stats.shard, index, stats.num_parts, stats.generation)
    output.put_if_absent(part.name, to_ipc(table))


def _checked(output: Store, name: str, digest: str) -> Content:
    data = output.open(name)
    if sha256_of(data) != digest:
        raise NotTheSameError(f"{name} is not what its marker says")
    return data
