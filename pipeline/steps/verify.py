"""The audit: reads everything published again and says, line by line, what does not hold."""

from __future__ import annotations

import hashlib
import io
import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from pipeline.steps.output_keys import output_key
from pipeline.steps.publish import ShardStats
from pipeline.storage.archive import read_members
from pipeline.storage.layout import (
    PROBE,
    REJECTED,
    RUN,
    marked_shard,
    marker_name,
    parquet_name,
    parse_part,
    tar_name,
)
from pipeline.storage.retry import StorageError
from pipeline.storage.store import Store
from pipeline.words.records import Status
from pipeline.words.rows import ROW_SCHEMA

RUN_FILE = f"{RUN}run.json"
PICTURES = ("jpg", "png", "webp")


@dataclass
class VerifyReport:
    """What an audit found. Nothing is wrong if ``problems`` is empty."""

    problems: list[str] = field(default_factory=list)  # a line each
    counts: dict[str, int] = field(default_factory=dict)  # rows by status
    num_shards: int = 0

    @property
    def num_rows(self) -> int:
        return sum(self.counts.values())


def verify(store: Store) -> VerifyReport:
    """Audits an output: markers, hashes, rows, members, and objects that nobody accounts for.

    A shard that is not published yet (parts without a marker) is a problem too: the run is not
    at its end.

    Raises:
        OSError: the store cannot be listed or read.
    """
    report = VerifyReport()
    listing = store.list()
    shards = [shard for name in listing if (shard := marked_shard(name)) is not None]
    report.problems += _unaccounted(listing, set(shards))
    fingerprint, problem = _fingerprint(store)
    report.problems += [problem] if problem else []
    counts: Counter[str] = Counter()
    for shard in shards:
        found: Counter[str] = Counter()
        report.problems += [f"{shard}: {line}" for line in _audit(store, shard, fingerprint, found)]
        counts += found
    report.num_shards, report.counts = len(shards), dict(sorted(counts.items()))
    if not shards and not report.problems:
        report.problems.append("nothing is published here")
    return report


def _unaccounted(listing: dict[str, int], shards: set[str]) -> Iterator[str]:
    """Objects of no published shard, and leftovers."""
    expected = {name for shard in shards for name in _objects(shard)}
    for name in listing:
        part = parse_part(name)
        if part is not None:
            state = "its shard is published" if part[0] in shards else "its shard is not published"
            yield f"{name}: a staged part is left, {state}; run again to finish or sweep it"
        elif PROBE.fullmatch(name):
            yield f"{name}: a probe is left; run again to sweep it"
        elif name not in expected and not name.startswith((RUN, REJECTED)):
            yield f"{name}: belongs to no published shard"


def _objects(shard: str) -> tuple[str, str, str]:
    return tar_name(shard), parquet_name(shard), marker_name(shard)


def _fingerprint(store: Store) -> tuple[str | None, str | None]:
    """The run's fingerprint, and what is wrong with the file that holds it."""
    try:
        return str(json.loads(store.get(RUN_FILE))["fingerprint"]), None
    except FileNotFoundError:
        return None, f"{RUN_FILE}: missing, so the run's fingerprint is unknown"
    except (ValueError, KeyError, TypeError):
        return None, f"{RUN_FILE}: holds no fingerprint"


def _audit(
    store: Store, shard: str, fingerprint: str | None, counts: Counter[str]
) -> Iterator[str]:
    """The problems of one published shard; adds its rows to ``counts``."""
    try:
        stats = ShardStats.from_json(store.get(marker_name(shard)))
    except (ValueError, TypeError) as error:
        yield f"the marker cannot be read: {error}"
        return
    if stats.shard != shard:
        yield f"the marker is that of shard {stats.shard!r}"
    if fingerprint is not None and stats.fingerprint != fingerprint:
        yield f"the marker's fingerprint {stats.fingerprint} is not the run's, {fingerprint}"
    objects: dict[str, bytes] = {}
    for kind, name in (("tar", tar_name(shard)), ("parquet", parquet_name(shard))):
        try:
            objects[kind] = store.get(name)
        except (FileNotFoundError, StorageError) as error:
            yield f"{name} cannot be read: {type(error).__name__}"
            continue
        yield from _same_object(name, objects[kind], stats, kind)
    rows: list[dict[str, Any]] | None = None
    if "parquet" in objects:
        try:
            table = pq.read_table(io.BytesIO(objects["parquet"]))
        except (pa.ArrowException, OSError) as error:
            yield f"the Parquet file cannot be read: {type(error).__name__}"
        else:
            if not table.schema.equals(ROW_SCHEMA):
                yield "the Parquet file has another schema than this version's rows"
            else:
                rows = table.to_pylist()
                counts.update(row["status"] for row in rows)
                yield from _check_rows(rows, stats)
    if "tar" in objects:
        yield from _check_members(objects["tar"], rows)


def _same_object(name: str, data: bytes, stats: ShardStats, kind: str) -> Iterator[str]:
    size, digest = getattr(stats, f"{kind}_bytes"), getattr(stats, f"{kind}_sha256")
    if len(data) != size:
        yield f"{name} has {len(data)} bytes, the marker says {size}"
    elif hashlib.sha256(data).hexdigest() != digest:
        yield f"{name} has another sha256 than the marker says"


def _check_rows(rows: list[dict[str, Any]], stats: ShardStats) -> Iterator[str]:
    counts = Counter(row["status"] for row in rows)
    unknown = set(counts) - {str(status) for status in Status}
    if unknown:
        yield f"rows have an unknown status: {', '.join(sorted(unknown))}"
    if dict(counts) != {status: number for status, number in stats.counts.items() if number}:
        yield f"rows by status are {dict(counts)}, the marker says {stats.counts}"
    edits = Counter((row["key"], row["edit_index"]) for row in rows)
    for (key, index), number in edits.items():
        if number > 1:
            yield f"edit {index} of {key!r} has {number} rows"
    for row in rows:
        edit = f"edit {row['edit_index']} of {row['key']!r}"
        if row["shard"] != stats.shard:
            yield f"{edit} is a row of shard {row['shard']!r}"
        if row["fingerprint"] != stats.fingerprint:
            yield f"{edit} has another fingerprint than the marker"
        if row["status"] in (Status.FAILED, Status.REJECTED) and not (
            row["stage"] and row["error"]
        ):
            yield f"{edit} is {row['status']} without a reason"
        edited = row["status"] == Status.EDITED
        name = output_key(row["key"], row["edit_index"]) if edited else None
        if row["output_key"] != name:
            yield f"{edit} is {row['status']} and has the output key {row['output_key']!r}"


def _check_members(tar: bytes, rows: list[dict[str, Any]] | None) -> Iterator[str]:
    """Every edited row has its members, they are what the row says, and there are no others."""
    members, problem = read_members(tar)
    if problem:
        yield f"the tar is {problem}"
    samples: dict[str, dict[str, bytes]] = {}
    for name, data in members:
        key, _, suffix = name.partition(".")
        if suffix in samples.setdefault(key, {}):
            yield f"the member {name} is there twice"
        samples[key][suffix] = data
    if rows is None:
        return
    for row in rows:
        if row["status"] != Status.EDITED:
            continue
        sample = samples.pop(row["output_key"], None)
        if sample is None:
            yield f"{row['output_key']}: an edited row without members in the tar"
        else:
            yield from (f"{row['output_key']}: {line}" for line in _check_sample(sample, row))
    for key in samples:
        yield f"{key}: members in the tar without an edited row"


def _check_sample(sample: dict[str, bytes], row: dict[str, Any]) -> Iterator[str]:
    shape = (row["height"], row["width"])
    digests = {
        suffix: hashlib.sha256(sample[suffix]).hexdigest()
        for suffix in PICTURES
        if suffix in sample
    }
    pictures = [suffix for suffix, digest in digests.items() if digest == row["image_sha256"]]
    if not pictures:
        yield "no picture with the row's sha256"
    elif _decoded_shape(sample[pictures[0]]) != (*shape, 3):
        yield f"the picture does not decode to {shape[1]} x {shape[0]} pixels"
    if sample.get("txt") != (row["edit_text"] or "").encode():
        yield "the member .txt is missing or is not the row's edit text"
    if "mask.png" not in sample or _decoded_shape(sample["mask.png"]) != shape:
        yield "the member .mask.png is missing or has another size than the picture"
    try:
        record = json.loads(sample["json"])
        same = all(record[name] == row[name] for name in ("key", "edit_index", "image_sha256"))
    except (KeyError, ValueError, TypeError):
        same = False
    if not same:
        yield "the member .json is missing or is not of this row"


def _decoded_shape(data: bytes) -> tuple[int, ...] | None:
    """The shape of a picture's pixels; None if it does not decode."""
    try:
        with Image.open(io.BytesIO(data)) as picture:
            return np.asarray(picture).shape
    except Exception:  # noqa: BLE001 - whatever a decoder raises on damaged bytes, it is damaged
        return None
