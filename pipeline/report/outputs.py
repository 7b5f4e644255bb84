"""Reads an output for its report: run, markers, and the rows of a bounded number of shards."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.config.config import Config
from pipeline.config.load import ConfigError, apply_override, parse_config
from pipeline.plan.run_folder import read_config
from pipeline.records.rows import ROW_SCHEMA
from pipeline.records.run_files import Amount, Count, RunFileError, RunRecord, parse_record
from pipeline.steps.marker import ShardStats, read_marker
from pipeline.storage.layout import RUN, marked_shard, parquet_name
from pipeline.storage.readers import in_threads
from pipeline.storage.retry import StorageError
from pipeline.storage.store import Store

MAX_ROWS_READ = 100_000  # of all statuses; further rows are only in the markers' counts
# Numeric columns that do not measure the quality of an edit.
NOT_SCORES = {
    *("edit_index", "source_width", "source_height", "width", "height", "seed"),
    *("model_width", "model_height"),
    *("num_evals_mask", "num_evals_encode", "num_evals_decode"),
}
TEXT_COLUMNS = ("shard", "key", "edit_index", "status", "stage", "error", "message", "notes")
IMAGE_COLUMNS = (
    *("caption", "edit_text", "source_sha256", "width", "height"),
    *("source_width", "source_height"),
)
NO_ROWS = ROW_SCHEMA.empty_table().select([*TEXT_COLUMNS, *IMAGE_COLUMNS])
REMEDY = "restore it, or run overpaint edit on this output again"
OVERRIDABLE = ("report.", "input.storage_options")

Record = TypeVar("Record")


@dataclass(frozen=True)
class Score:
    """A column that measures edits."""

    name: str
    meaning: str
    better: str  # "higher" or "lower"; "" if neither or unknown


@dataclass(frozen=True)
class Environment:
    """What the page shows of ``_run/environment.json``."""

    overpaint: str = "?"
    python: str = "?"
    libraries: dict[str, str] = field(default_factory=dict)  # versions by name


@dataclass(frozen=True)
class LastRun:
    """What the page shows of ``_run/summary.json``: the last invocation."""

    wall_s: Amount = 0.0
    images_per_s: Amount = 0.0
    edits_computed_now: Count = 0


@dataclass(frozen=True)
class Output:
    """The texts and numbers of an output."""

    config: Config | None  # None: missing, or written by another version
    run: RunRecord | None  # _run/run.json
    environment: Environment | None
    summary: LastRun
    markers: dict[str, ShardStats]  # of every published shard, by name
    unreadable: list[str]  # shards whose marker or Parquet file cannot be read
    rows: pa.Table  # of the shards that were read, in their order
    scores: list[Score]  # columns of ``rows`` that are scores and not all null

    def column(self, name: str) -> list[Any]:
        """A column of the rows that were read; None for null."""
        return self.rows.column(name).to_pylist()

    def some(self, indices: Sequence[int]) -> list[dict[str, Any]]:
        """Some of the rows that were read, as mappings; there may be none."""
        return self.rows.take(pa.array(indices, pa.int64())).to_pylist()

    def texts(self, name: str) -> list[str]:
        """A text column of the rows that is never null: shard, key or status."""
        return self.column(name)


def read_output(output: Store, overrides: Sequence[str] = ()) -> Output:
    """Reads ``_run/``, all markers, and the rows of at most ``MAX_ROWS_READ`` edits.

    Args:
        output: of a run.
        overrides: "key=value" for ``report`` and ``input.storage_options``.

    Raises:
        FileNotFoundError: nothing is published here.
        ConfigError: an override is not allowed.
        RunFileError: a file of ``_run/`` cannot be used.
    """
    names = [shard for name in output.list() if (shard := marked_shard(name)) is not None]
    if not names:
        raise FileNotFoundError("nothing is published here, so there is nothing to report")
    config = _config(output, overrides)
    found = in_threads(partial(_marker, output), names)
    markers = {name: marker for name, marker in found if marker is not None}
    tables = dict(in_threads(partial(_rows, output), shards_to_read(markers)))
    unreadable = [name for name in names if name not in markers]
    unreadable += [name for name, table in tables.items() if table is None]
    read = [table for table in tables.values() if table is not None]
    rows = pa.concat_tables(read or [NO_ROWS], promote_options="permissive")
    return Output(
        config=config,
        run=_record(output, f"{RUN}run.json", RunRecord),
        environment=_record(output, f"{RUN}environment.json", Environment),
        summary=_record(output, f"{RUN}summary.json", LastRun) or LastRun(),
        markers=markers,
        unreadable=unreadable,
        rows=rows,
        scores=[
            score
            for score in score_columns(rows.schema)
            if rows.column(score.name).null_count < rows.num_rows
        ],
    )


def shards_to_read(markers: dict[str, ShardStats], max_rows: int = MAX_ROWS_READ) -> list[str]:
    """The shards whose rows are read: all, or a sample if there are more than ``max_rows`` rows.

    The sample has evenly spaced shards, and one shard more for each kind of failure or rejection
    that these do not have.

    Returns:
        Sorted names. The evenly spaced shards have at most ``max_rows`` rows.
    """
    names = sorted(markers)
    total = sum(marker.num_rows for marker in markers.values())
    if total <= max_rows:
        return names
    largest = max(marker.num_rows for marker in markers.values())
    indices = np.linspace(0, len(names) - 1, max(1, max_rows // largest)).round().astype(int)
    chosen = {names[index] for index in indices}
    kinds = {name: {*markers[name].failures, *markers[name].rejections} for name in names}
    seen = set().union(*(kinds[name] for name in chosen))
    for name in names:
        if kinds[name] - seen:
            chosen.add(name)
            seen |= kinds[name]
    return sorted(chosen)


def score_columns(schema: pa.Schema) -> list[Score]:
    """Every numeric column that measures an edit, with the description in its field's metadata."""
    found = []
    for column in schema:
        numeric = pa.types.is_floating(column.type) or pa.types.is_integer(column.type)
        if numeric and column.name not in NOT_SCORES:
            pairs = (column.metadata or {}).items()
            metadata = {key.decode(): text.decode() for key, text in pairs}
            found.append(
                Score(column.name, metadata.get("meaning", ""), metadata.get("better", ""))
            )
    return found


def _marker(output: Store, name: str) -> ShardStats | None:
    try:
        return read_marker(output, name)
    except RunFileError:
        return None


def _rows(output: Store, name: str) -> pa.Table | None:
    """The columns that the page needs; None if the file cannot be read."""
    try:
        file = pq.ParquetFile(io.BytesIO(output.get(parquet_name(name))))
        schema = file.schema_arrow
        if not {*TEXT_COLUMNS, *IMAGE_COLUMNS} <= {*schema.names}:
            return None
        wanted = [*TEXT_COLUMNS, *IMAGE_COLUMNS, *(score.name for score in score_columns(schema))]
        return file.read([column for column in wanted if column in schema.names])
    except (pa.ArrowException, FileNotFoundError, StorageError, OSError):
        return None


def _config(output: Store, overrides: Sequence[str]) -> Config | None:
    """The run's config with overrides; None if it is missing or this version cannot read it."""
    for override in overrides:
        if not override.startswith(OVERRIDABLE):
            raise ConfigError(
                f"{override}: allowed for a report are {' and '.join(OVERRIDABLE)}*; the other "
                "settings were fixed when the output was made"
            )
    try:
        config = read_config(output)
    except (FileNotFoundError, RunFileError):
        if overrides:
            raise ConfigError(
                f"{overrides[0]}: {RUN}config.yaml is missing or was written by another version"
            ) from None
        return None
    if not overrides:
        return config
    tree = config.model_dump(mode="json")
    for override in overrides:
        apply_override(tree, override)
    return parse_config(tree)


def _record(output: Store, name: str, kind: type[Record]) -> Record | None:
    """A file of ``_run/``; None if there is none.

    Raises:
        RunFileError: it cannot be used.
    """
    try:
        data = output.get(name)
    except FileNotFoundError:
        return None
    return parse_record(data, f"{output.url}/{name}", kind, remedy=REMEDY)
