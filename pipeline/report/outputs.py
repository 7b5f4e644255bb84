"""What an output says of itself: run, markers, and the rows of as many shards as are bounded."""

from __future__ import annotations

import io
import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import yaml

from pipeline.config.config import Config
from pipeline.config.load import ConfigError, apply_override, parse_config
from pipeline.steps.publish import ShardStats, read_marker
from pipeline.storage.layout import RUN, marked_shard, parquet_name
from pipeline.storage.readers import in_threads
from pipeline.storage.retry import StorageError
from pipeline.storage.store import Store

MAX_ROWS_READ = 100_000  # of all statuses; more are in the markers' counts alone
# Numbers of a row that tell where it comes from or what it took, not how good it is.
NOT_SCORES = {
    *("edit_index", "source_width", "source_height", "width", "height", "seed"),
    *("num_evals_mask", "num_evals_encode", "num_evals_decode"),
}
TEXT_COLUMNS = ("shard", "key", "edit_index", "status", "stage", "error", "message", "notes")
IMAGE_COLUMNS = ("caption", "edit_text", "source_sha256", "width", "height")
OVERRIDABLE = ("report.", "input.storage_options")


@dataclass(frozen=True)
class Score:
    """A column that measures edits."""

    name: str
    meaning: str
    better: str  # "higher" or "lower"; "" where neither is, or nobody says


@dataclass(frozen=True)
class Output:
    """Everything that the page says in words and numbers."""

    config: Config | None  # None: of another version, or not there
    run: dict[str, Any]  # _run/run.json
    environment: dict[str, Any]
    summary: dict[str, Any]  # of the last invocation; empty where there is none
    markers: dict[str, ShardStats]  # every published shard, by name
    unreadable: list[str]  # shards whose marker or Parquet file cannot be read
    rows: pa.Table  # of the shards that were read, in their order
    scores: list[Score]  # columns of ``rows`` that are scores and that any row has


def read_output(output: Store, overrides: Sequence[str] = ()) -> Output:
    """Reads ``_run/``, all markers, and the rows of at most ``MAX_ROWS_READ`` edits.

    Args:
        output: of a run.
        overrides: "key=value" of ``report`` and ``input.storage_options``.

    Raises:
        FileNotFoundError: nothing is published here.
        ConfigError: an override is not allowed.
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
    rows = pa.concat_tables(
        [table for table in tables.values() if table is not None], promote_options="permissive"
    )
    return Output(
        config=config,
        run=_json(output, f"{RUN}run.json"),
        environment=_json(output, f"{RUN}environment.json"),
        summary=_json(output, f"{RUN}summary.json"),
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
    """All shards; of too many, evenly spaced ones, and one with each kind of failure or rejection.

    Returns:
        Names, sorted. Their rows are at most ``max_rows`` and those of a shard for each kind.
    """
    names = sorted(markers)
    total = sum(marker.num_rows for marker in markers.values())
    if total <= max_rows:
        return names
    largest = max(marker.num_rows for marker in markers.values())
    places = np.linspace(0, len(names) - 1, max(1, max_rows // largest)).round().astype(int)
    chosen = {names[place] for place in places}
    kinds = {name: {*markers[name].failures, *markers[name].rejections} for name in names}
    seen = set().union(*(kinds[name] for name in chosen))
    for name in names:
        if kinds[name] - seen:
            chosen.add(name)
            seen |= kinds[name]
    return sorted(chosen)


def score_columns(schema: pa.Schema) -> list[Score]:
    """Every numeric column that measures an edit, with what its field says of itself."""
    found = []
    for field in schema:
        numeric = pa.types.is_floating(field.type) or pa.types.is_integer(field.type)
        if numeric and field.name not in NOT_SCORES:
            said = {key.decode(): text.decode() for key, text in (field.metadata or {}).items()}
            found.append(Score(field.name, said.get("meaning", ""), said.get("better", "")))
    return found


def _marker(output: Store, name: str) -> ShardStats | None:
    try:
        return read_marker(output, name)
    except (ValueError, TypeError):
        return None


def _rows(output: Store, name: str) -> pa.Table | None:
    """The columns that the page needs; None where the file cannot be read."""
    try:
        file = pq.ParquetFile(io.BytesIO(output.get(parquet_name(name))))
        schema = file.schema_arrow
        wanted = [*TEXT_COLUMNS, *IMAGE_COLUMNS, *(score.name for score in score_columns(schema))]
        return file.read([column for column in wanted if column in schema.names])
    except (pa.ArrowException, FileNotFoundError, StorageError, OSError):
        return None


def _config(output: Store, overrides: Sequence[str]) -> Config | None:
    """The run's own config with overrides; None where this version does not understand it."""
    for override in overrides:
        if not override.startswith(OVERRIDABLE):
            raise ConfigError(
                f"{override}: a report takes {' and '.join(OVERRIDABLE)}*, since the rest is what "
                "the output was made with"
            )
    try:
        tree = yaml.safe_load(output.get(f"{RUN}config.yaml"))
        parse_config(tree)
    except (FileNotFoundError, yaml.YAMLError, ConfigError, TypeError):
        tree = None
    if not isinstance(tree, dict):
        if overrides:
            raise ConfigError(f"{overrides[0]}: {RUN}config.yaml is absent or of another version")
        return None
    for override in overrides:
        apply_override(tree, override)
    return parse_config(tree)


def _json(output: Store, name: str) -> dict[str, Any]:
    try:
        value = json.loads(output.get(name))
    except (FileNotFoundError, ValueError):
        return {}
    return value if isinstance(value, dict) else {}
