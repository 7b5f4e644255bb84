"""Applies filters to the rows of a shard, and undoes them: staged parts are not filtered."""

from __future__ import annotations

from dataclasses import replace

import pyarrow as pa

from pipeline.config.filters import Filtering
from pipeline.records.part import Status
from pipeline.records.rows import Row, rows_of, table_of
from pipeline.steps.output_keys import output_key

STAGE = "filter"  # the ``stage`` column of a rejected row
JUDGED = ("status", "stage", "error", "message", "output_key")


def apply_filters(table: pa.Table, filtering: Filtering) -> pa.Table:
    """The rows as they are published: those that a filter rejects are ``rejected``, with a reason.

    Args:
        table: rows of staged parts, with or without their members. None of them is rejected yet.
        filtering: the filters in force. Without ``keep_rejected`` a rejected row has no output key,
            since its members are not written.

    Returns:
        The same rows; only status, stage, error, message and output key may change.
    """
    if not filtering.filters:
        return table
    names = dict.fromkeys((*JUDGED, *(item.column for item in filtering.filters)))
    rows = table.select(list(names)).to_pylist()
    for row in rows:
        verdict = filtering.verdict(row) if row["status"] == Status.EDITED else None
        if verdict is not None:
            row |= {"status": str(Status.REJECTED), "stage": STAGE}
            row |= dict(zip(("error", "message"), verdict, strict=True))
            if not filtering.keep_rejected:
                row["output_key"] = None
    for name in JUDGED:
        place = table.schema.get_field_index(name)
        column = pa.array([row[name] for row in rows], table.schema.field(name).type)
        table = table.set_column(place, table.schema.field(name), column)
    return table


def without_filters(row: Row) -> Row:
    """A published row as it was before ``apply_filters``."""
    if row.status != Status.REJECTED:
        return row
    return replace(
        row,
        status=str(Status.EDITED),
        stage=None,
        error=None,
        message=None,
        output_key=output_key(row.key, row.edit_index),
    )


def unfiltered(table: pa.Table) -> pa.Table:
    """Published rows as they were before ``apply_filters``."""
    return table_of(without_filters(row) for row in rows_of(table))
