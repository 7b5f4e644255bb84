"""Part of the audit: each published row is whole, and agrees with the marker and the filters."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import replace

import pyarrow as pa

from pipeline.config.filters import Filtering
from pipeline.records.part import Status
from pipeline.records.rows import Row, rows_of
from pipeline.steps.filter import apply_filters, unfiltered
from pipeline.steps.marker import ShardStats
from pipeline.steps.output_keys import output_key


def check_rows(rows: list[Row], stats: ShardStats) -> Iterator[str]:
    """The problems of a shard's rows, each by itself and beside the marker, one line each."""
    counts = Counter(row.status for row in rows)
    unknown = set(counts) - {str(status) for status in Status}
    if unknown:
        yield f"rows have an unknown status: {', '.join(sorted(unknown))}"
    if dict(counts) != {status: number for status, number in stats.counts.items() if number}:
        yield f"rows by status are {dict(counts)}, the marker says {stats.counts}"
    edits = Counter((row.key, row.edit_index) for row in rows)
    for (key, index), number in edits.items():
        if number > 1:
            yield f"edit {index} of {key!r} has {number} rows"
    for row in rows:
        edit = f"edit {row.edit_index} of {row.key!r}"
        if row.shard != stats.shard:
            yield f"{edit} names another shard, {row.shard!r}"
        if row.fingerprint != stats.fingerprint:
            yield f"{edit} has another fingerprint than the marker"
        if row.status in (Status.FAILED, Status.REJECTED) and not (row.stage and row.error):
            yield f"{edit} is {row.status} without a reason"
        written = row.status == Status.EDITED or (
            row.status == Status.REJECTED and stats.rejected_sha256 is not None
        )
        name = output_key(row.key, row.edit_index) if written else None
        if row.output_key != name:
            yield f"{edit} is {row.status}, but has the output key {row.output_key!r}"


def check_filtered(table: pa.Table, stats: ShardStats, filtering: Filtering) -> Iterator[str]:
    """A line if the filters in force would not accept or reject every row for its reason."""
    kept = replace(filtering, keep_rejected=stats.rejected_sha256 is not None)
    judged = apply_filters(unfiltered(table), kept)
    if not judged.equals(table):
        pairs = zip(rows_of(judged), rows_of(table), strict=True)
        wrong = [row for wanted, row in pairs if wanted != row]
        row = wrong[0]
        yield (
            f"{len(wrong)} rows do not follow the filters in force; the first is edit "
            f"{row.edit_index} of {row.key!r}, which is {row.status}"
        )
