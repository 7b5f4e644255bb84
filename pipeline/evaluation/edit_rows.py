"""Writes the figures of each edit of an evaluation to one Parquet file, for further analysis."""

from __future__ import annotations

import io
from collections.abc import Sequence

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.evaluation.measure import Measured


def edits_parquet(edits: Sequence[tuple[str, float, Sequence[Measured]]]) -> bytes:
    """A Parquet file with a row for each edit: method, ratio, key, group, status, figures or null.

    Args:
        edits: method, ratio, and the measured edits.
    """
    rows = [
        {
            "method": method,
            "ratio": ratio,
            "key": item.key,
            "group": item.group,
            "status": item.status,
            **item.figures,
        }
        for method, ratio, measured in edits
        for item in measured
    ]
    first = ("method", "ratio", "key", "group", "status")
    names = [*first, *sorted({name for row in rows for name in row} - set(first))]
    types = {name: pa.string() for name in first if name != "ratio"}
    schema = pa.schema([(name, types.get(name, pa.float64())) for name in names])
    sink = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(rows, schema), sink)
    return sink.getvalue()
