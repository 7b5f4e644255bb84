"""The schema that users read: every score says in the Parquet file what it means."""

from __future__ import annotations

import io

import pyarrow.parquet as pq

from pipeline.records.rows import (
    COLUMNS,
    LOWER_IS_BETTER,
    NEITHER_IS_BETTER,
    ROW_SCHEMA,
    SCORE,
    STAGED_SCHEMA,
)
from pipeline.steps.publish import to_parquet


def test_columns_say_in_the_file_what_they_mean_and_which_way_is_better() -> None:
    """A report reads both from the Parquet file's column metadata, for every score."""
    schema = pq.read_schema(io.BytesIO(to_parquet(ROW_SCHEMA.empty_table())))
    found = {column.name: column.metadata or {} for column in schema}
    assert all(metadata[b"meaning"] for metadata in found.values())
    better = {name: data[b"better"] for name, data in found.items() if b"better" in data}
    assert better["score_lpips"] == b"lower"
    assert better["score_clip_directional"] == b"higher"
    scores = {name for name in found if name.startswith(SCORE)}
    assert set(better) == scores - NEITHER_IS_BETTER
    assert scores >= LOWER_IS_BETTER | NEITHER_IS_BETTER


def test_staged_rows_are_published_rows_with_members() -> None:
    """The staged schema is the published one and one column more."""
    assert STAGED_SCHEMA.names == [*ROW_SCHEMA.names, "members"]
    assert len({name for name, *_ in COLUMNS}) == len(COLUMNS)
