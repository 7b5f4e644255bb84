"""The audit: reads everything that is published and lists what is wrong, line by line."""

from __future__ import annotations

import io
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.config.filters import Filtering, filtering_of
from pipeline.records.part import Status
from pipeline.records.rows import ROW_SCHEMA, Row, completed, rows_of
from pipeline.records.run_files import OF_FILTERS, RunFileError, parse_filters, parse_run
from pipeline.steps.marker import ShardStats
from pipeline.steps.verify_inputs import changed_inputs
from pipeline.steps.verify_members import check_members
from pipeline.steps.verify_rows import check_filtered, check_rows
from pipeline.storage.content import Content, sha256_of
from pipeline.storage.layout import (
    PROBE,
    RUN,
    marked_shard,
    marker_name,
    parquet_name,
    parse_claim,
    parse_part,
    rejected_name,
    tar_name,
)
from pipeline.storage.retry import StorageError
from pipeline.storage.saved_inputs import INPUTS_FILE, saved_inputs
from pipeline.storage.store import Store

RUN_FILE = f"{RUN}run.json"
FILTERS_FILE = f"{RUN}filters.json"
CONFIG_FILE = f"{RUN}config.yaml"
MAX_MISSING = 100  # lines


@dataclass
class VerifyReport:
    """The result of an audit. The output is right if ``problems`` is empty."""

    problems: list[str] = field(default_factory=list)  # one line each
    notes: list[str] = field(default_factory=list)  # what could not be checked, one line each
    counts: dict[str, int] = field(default_factory=dict)  # rows by status
    num_shards: int = 0

    @property
    def num_rows(self) -> int:
        return sum(self.counts.values())


def verify(
    store: Store, *, inputs: bool = False, input_options: dict[str, Any] | None = None
) -> VerifyReport:
    """Audits an output: markers, hashes, rows, members, and objects of no published shard.

    A shard with staged parts but no marker is a problem too: the run has not ended. So is an input
    shard in ``_run/inputs.json`` that is not published.

    Args:
        store: of the output.
        inputs: read the input shards too, and compare their sha256 with the markers'.
        input_options: fsspec's options for the inputs.

    Raises:
        OSError: the store cannot be listed or read.
    """
    report = VerifyReport()
    listing = store.list()
    shards = [shard for name in listing if (shard := marked_shard(name)) is not None]
    report.problems += _unaccounted(listing, set(shards))
    fingerprint, problem = _fingerprint(store)
    report.problems += [problem] if problem else []
    filtering, problem = _filtering(store)
    report.problems += [problem] if problem else []
    report.problems += _unpublished(store, listing, set(shards))
    counts: Counter[str] = Counter()
    for shard in shards:
        found: Counter[str] = Counter()
        lines = _audit(store, shard, fingerprint, filtering, found)
        report.problems += [f"{shard}: {line}" for line in lines]
        counts += found
    if inputs:
        for line, is_problem in changed_inputs(store, shards, input_options):
            (report.problems if is_problem else report.notes).append(line)
    report.num_shards, report.counts = len(shards), dict(sorted(counts.items()))
    if not shards and not report.problems:
        report.problems.append("nothing is published here")
    return report


def _unaccounted(listing: dict[str, int], shards: set[str]) -> Iterator[str]:
    """A line for each object that belongs to no published shard, and for each leftover."""
    expected = {name for shard in shards for name in _objects(shard)}
    for name in listing:
        part = parse_part(name)
        shard = part.shard if part is not None else parse_claim(name)
        if shard is not None:
            state = "its shard is published" if shard in shards else "its shard is not published"
            yield f"{name}: a leftover staged part ({state}); run again to publish or sweep it"
        elif PROBE.fullmatch(name):
            yield f"{name}: a leftover probe; run again to sweep it"
        elif name not in expected and not name.startswith(RUN):
            yield f"{name}: belongs to no published shard"


def _unpublished(store: Store, listing: dict[str, int], shards: set[str]) -> list[str]:
    """A line for each input shard of the run that is not published, or has vanished since."""
    if INPUTS_FILE not in listing:
        gone = f"{INPUTS_FILE}: missing, so it is unknown which shards the run had"
        return [gone] if CONFIG_FILE in listing else []
    try:
        missing = sorted(saved_inputs(store).keys() - shards)
    except RunFileError as error:
        return [f"{INPUTS_FILE}: {error.reason}; {error.remedy}"]
    lines = [f"{name}: an input of the run, but not published; run again" for name in missing]
    more = len(lines) - MAX_MISSING
    return lines if more <= 0 else [*lines[:MAX_MISSING], f"{more} more shards are not published"]


def _objects(shard: str) -> tuple[str, ...]:
    """The objects of a published shard. ``_audit`` checks whether a rejected tar must exist."""
    return tar_name(shard), rejected_name(shard), parquet_name(shard), marker_name(shard)


def _fingerprint(store: Store) -> tuple[str | None, str | None]:
    """(fingerprint, problem) of the file with the run's fingerprint; one of them is None."""
    try:
        return parse_run(store.get(RUN_FILE), RUN_FILE).fingerprint, None
    except FileNotFoundError:
        return None, f"{RUN_FILE}: missing, so the run's fingerprint is unknown"
    except RunFileError as error:
        return None, f"{RUN_FILE}: has no fingerprint: {error.reason}; {error.remedy}"


def _filtering(store: Store) -> tuple[Filtering, str | None]:
    """The filters in force, and the problem with the file that records them, if any."""
    try:
        record = parse_filters(store.get(FILTERS_FILE), FILTERS_FILE)
        filtering = filtering_of(record.filters)
        if record.applied:
            return filtering, None
        return filtering, f"{FILTERS_FILE}: not applied to all shards yet; run refilter again"
    except FileNotFoundError:
        return Filtering(), f"{FILTERS_FILE}: missing, so the filters in force are unknown"
    except RunFileError as error:
        return Filtering(), f"{FILTERS_FILE}: has no filters: {error.reason}; {error.remedy}"
    except ValueError as error:
        return Filtering(), f"{FILTERS_FILE}: has no filters: {error}; {OF_FILTERS}"


def _audit(
    store: Store,
    shard: str,
    fingerprint: str | None,
    filtering: Filtering,
    counts: Counter[str],
) -> Iterator[str]:
    """The problems of one published shard; adds its rows to ``counts``."""
    try:
        stats = ShardStats.from_json(store.get(marker_name(shard)), marker_name(shard))
    except RunFileError as error:
        yield f"the marker cannot be read: {error}"
        return
    except FileNotFoundError:
        yield "its marker has gone since the listing: a run or a refilter publishes it anew"
        return
    if stats.shard != shard:
        yield f"the marker names another shard, {stats.shard!r}"
    if fingerprint is not None and stats.fingerprint != fingerprint:
        yield f"the marker's fingerprint is {stats.fingerprint}, the run's is {fingerprint}"
    if stats.filters != filtering.fingerprint:
        yield "it is published with other filters than those in force; refilter, or run again"
    names = {"tar": tar_name(shard), "parquet": parquet_name(shard)}
    if stats.rejected_sha256 is not None:
        names["rejected"] = rejected_name(shard)
    elif store.exists(rejected_name(shard)):
        yield f"{rejected_name(shard)} exists, but the marker does not list it"
    objects: dict[str, Content] = {}
    for kind, name in names.items():
        try:
            data = store.open(name)
            lines = list(_same_object(name, data, stats, kind))
        except (FileNotFoundError, StorageError) as error:
            yield _unreadable(name, error)
            continue
        objects[kind] = data
        yield from lines
    rows: list[Row] | None = None
    if "parquet" in objects:
        rows, lines = _rows(objects["parquet"], stats, filtering)
        counts.update(row.status for row in rows or ())
        yield from lines
    for kind, status in (("tar", Status.EDITED), ("rejected", Status.REJECTED)):
        if kind in objects:
            try:
                yield from check_members(objects[kind], rows, status)
            except StorageError as error:  # it is overwritten while it is read
                yield _unreadable(names[kind], error)


def _rows(
    data: Content, stats: ShardStats, filtering: Filtering
) -> tuple[list[Row] | None, list[str]]:
    """The rows of a Parquet file, None if they cannot be read, and what is wrong with them."""
    try:
        table = completed(pq.read_table(io.BytesIO(data[:])))
    except (pa.ArrowException, OSError) as error:
        return None, [f"the Parquet file cannot be read: {type(error).__name__}"]
    if not table.schema.equals(ROW_SCHEMA):
        return None, ["the Parquet file has another schema than this version's rows"]
    rows = rows_of(table)
    return rows, [*check_rows(rows, stats), *check_filtered(table, stats, filtering)]


def _unreadable(name: str, error: OSError) -> str:
    return f"{name} cannot be read: {type(error).__name__}"


def _same_object(name: str, data: Content, stats: ShardStats, kind: str) -> Iterator[str]:
    size, digest = getattr(stats, f"{kind}_bytes"), getattr(stats, f"{kind}_sha256")
    if len(data) != size:
        yield f"{name} has {len(data)} bytes, the marker says {size}"
    elif sha256_of(data) != digest:
        yield f"{name} does not have the sha256 in the marker"
