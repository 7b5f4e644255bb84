"""Publishing: when all parts of a shard are staged, builds its tar, Parquet file and marker."""

from __future__ import annotations

import hashlib
import io
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, cast

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.config.filters import Filtering
from pipeline.images.composite import CUT_NOTE
from pipeline.records.part import Status
from pipeline.records.rows import ROW_SCHEMA
from pipeline.records.staged import PartHeader
from pipeline.steps.filter import apply_filters
from pipeline.steps.marker import ShardStats, read_marker
from pipeline.steps.read import LEFT_OUT
from pipeline.steps.staged_parts import claimed_parts, delete_staged, read_staged
from pipeline.steps.write_part import header_of
from pipeline.storage.layout import (
    StagedPart,
    marker_name,
    parquet_name,
    rejected_name,
    tar_name,
)
from pipeline.storage.scratch import Spool
from pipeline.storage.store import Store
from pipeline.storage.tar_write import SampleTar

ROW_GROUP_ROWS = 65536
UNFILTERED = Filtering()


@dataclass
class _Shard:
    """A shard that is being built from its parts, in order."""

    tar: SampleTar = field(default_factory=SampleTar)
    rejected: SampleTar = field(default_factory=SampleTar)
    num_rejected: int = 0  # samples in it
    tables: list[pa.Table] = field(default_factory=list)
    headers: list[PartHeader] = field(default_factory=list)


def publish_if_complete(
    store: Store, shard: str, filtering: Filtering = UNFILTERED
) -> ShardStats | None:
    """Publishes a shard if all parts of one generation are staged.

    Claims the generation, puts the tar, the tar of rejected images and the Parquet file (each
    replaces what a torn publish left behind), then the marker if absent, then deletes the parts. A
    shard is a function of its staged parts and the filters of the run, so two tasks that publish at
    once write the same bytes. A damaged part is deleted, and the shard is not complete then.

    Args:
        store: of the output.
        shard: its name.
        filtering: the filters of the run.

    Returns:
        The marker if the shard is now published, by this call or an earlier one; else None.

    Raises:
        ValueError: the staged parts are not of one run; or an edit passes the filters, but a run
            with other filters did not keep its image.
    """
    stats = read_marker(store, shard)
    if stats is None:
        parts = claimed_parts(store, shard)
        if parts is None:
            return None
        # Again: a set may lack parts because another task has published, and is deleting them.
        stats = read_marker(store, shard)
        if stats is None:
            try:
                built = _build(store, parts, filtering)
            except FileNotFoundError:  # meanwhile another task has published the shard
                return read_marker(store, shard)
            if built is None:
                return None
            stats = _put(store, shard, built, filtering)
    delete_staged(store, shard)
    return stats


def _build(store: Store, parts: list[StagedPart], filtering: Filtering) -> _Shard | None:
    """The shard from its parts in order, one in memory at a time; None if one is damaged."""
    built = _Shard()
    return built if all(_add(built, store, part, filtering) for part in parts) else None


def _add(built: _Shard, store: Store, part: StagedPart, filtering: Filtering) -> bool:
    """Adds a part to a shard; False if it is damaged."""
    staged = read_staged(store, part)
    if staged is None:
        return False
    table = apply_filters(staged, filtering)
    built.headers.append(header_of(table))
    for row in _row_by_row(table.select(["status", "output_key", "members"])):
        if row["output_key"] is None:
            continue
        if not row["members"]:
            raise ValueError(
                f"{part.name}: {row['output_key']} passes these filters, but its image was "
                f"not kept when other filters rejected it (output.keep_rejected: false)"
            )
        members = {item["suffix"]: item["data"] for item in row["members"]}
        is_rejected = row["status"] == Status.REJECTED
        built.num_rejected += is_rejected
        tar = built.rejected if is_rejected else built.tar
        tar.add(row["output_key"], members)
    rows = table.drop_columns(["members"])
    # Copied, since the columns are views of the part, which would stay in memory with them.
    built.tables.append(rows.take(pa.array(range(rows.num_rows), pa.int64())))
    return True


def _row_by_row(table: pa.Table) -> Iterator[dict[str, Any]]:
    """The rows of a table, each as Python's values only while it is looked at."""
    for index in range(table.num_rows):
        yield from table.slice(index, 1).to_pylist()


def _put(store: Store, shard: str, built: _Shard, filtering: Filtering) -> ShardStats:
    """Puts both tars, the Parquet file and the marker; returns the marker."""
    rows = pa.concat_tables(built.tables).cast(ROW_SCHEMA).replace_schema_metadata(None)
    tar, parquet = built.tar.finished(), to_parquet(rows)
    rejected = built.rejected.finished() if built.num_rejected else None
    stats = _stats(shard, rows, built.headers, tar, parquet)
    stats.filters = filtering.fingerprint
    store.put_spooled(tar_name(shard), tar)
    if rejected is not None:
        stats.rejected_bytes = rejected.size
        stats.rejected_sha256 = rejected.sha256
        store.put_spooled(rejected_name(shard), rejected)
    else:  # remove what other filters rejected before
        store.delete(rejected_name(shard))
    store.put(parquet_name(shard), parquet)
    if not store.put_if_absent(marker_name(shard), stats.to_json()):
        return read_marker(store, shard) or stats
    return stats


def to_parquet(rows: pa.Table) -> bytes:
    """The published Parquet file: equal bytes for equal rows.

    Without rows it has no row group either: readers that take an empty one as the size of their
    batches fail on it.
    """
    sink = io.BytesIO()
    with pq.ParquetWriter(sink, rows.schema, compression="zstd") as writer:
        if rows.num_rows:
            writer.write_table(rows.combine_chunks(), row_group_size=ROW_GROUP_ROWS)
    return sink.getvalue()


def _stats(
    shard: str, rows: pa.Table, headers: list[PartHeader], tar: Spool, parquet: bytes
) -> ShardStats:
    statuses = Counter(rows.column("status").to_pylist())
    counts = {str(status): statuses.pop(str(status), 0) for status in Status}
    assert not statuses, f"{shard}: rows of another status: {statuses}"
    assert rows.num_rows == sum(counts.values()) == sum(part.num_rows for part in headers)
    fingerprints = {part.fingerprint for part in headers}
    assert len({part.input_sha256 for part in headers}) == 1, "they are of one generation"
    if len(fingerprints) > 1:
        raise ValueError(f"shard {shard!r} has staged parts of the fingerprints {fingerprints}")
    seconds: Counter[str] = Counter()
    halvings: Counter[str] = Counter()
    for part in headers:
        seconds.update(part.seconds)
        halvings.update(part.halvings)
    reasons = rows.select(["status", "stage", "error", "notes"]).to_pylist()
    failures = Counter(
        f"{row['stage']}: {row['error']}" for row in reasons if row["status"] == Status.FAILED
    )
    rejections = Counter(row["error"] for row in reasons if row["status"] == Status.REJECTED)
    return ShardStats(
        shard=shard,
        fingerprint=fingerprints.pop(),
        num_parts=len(headers),
        counts=counts,
        failures=dict(sorted(failures.items())),
        tar_bytes=tar.size,
        tar_sha256=tar.sha256,
        parquet_bytes=len(parquet),
        parquet_sha256=hashlib.sha256(parquet).hexdigest(),
        problem=next((part.problem for part in headers if part.problem), None),
        num_evals={
            stage: sum(cast(list[int], rows.column(f"num_evals_{stage}").to_pylist()))
            for stage in ("mask", "encode", "decode")
        },
        seconds={name: round(value, 3) for name, value in sorted(seconds.items())},
        hosts=sorted({host for part in headers for host in part.hosts}),
        devices=sorted({part.device for part in headers if part.device}),
        halvings=dict(sorted(halvings.items())),
        published_at=datetime.now(UTC).isoformat(timespec="seconds"),
        part_rows=[part.num_rows for part in headers],
        left_out=sum(any(note.startswith(LEFT_OUT) for note in row["notes"]) for row in reasons),
        cut_masks=sum(
            row["status"] == Status.EDITED and CUT_NOTE in row["notes"] for row in reasons
        ),
        codes=sorted({part.code for part in headers if part.code}),
        input_sha256=headers[0].input_sha256,
        generation=headers[0].generation,
        model_revision=str(next(iter(rows.column("model_revision").unique().to_pylist()), "")),
        rejections=dict(sorted(rejections.items())),
    )
