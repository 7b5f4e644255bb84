"""The audit finds every way in which an output can be wrong, and reports it."""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.plan.filters import FILTERS_FILE, FiltersInForce
from pipeline.records.rows import ROW_SCHEMA
from pipeline.steps.publish import to_parquet
from pipeline.steps.verify import verify
from pipeline.storage.archive import read_members
from pipeline.storage.layout import StagedPart, claim_name
from pipeline.storage.store import Store
from tests.committing import make_config, run
from tests.samples import raw_sample, shard_bytes, write_shard

INPUTS = json.dumps(
    [{"name": name, "url": f"in/{name}.tar", "size": 1, "etag": None} for name in ("0", "1")]
).encode()
Change = Callable[[Store], None]


@pytest.fixture
def store(tmp_path: Path) -> Store:
    write_shard(
        tmp_path / "in/0.tar",
        [
            raw_sample("a", ["1", "2"], seed=1),
            raw_sample("b", ["a dog"]),
            raw_sample("c", caption=None),
        ],
    )
    store = Store(str(tmp_path / "out"))
    run(make_config(f"{tmp_path}/in/*.tar"), store)
    return store


def test_a_published_output_has_no_problems(store: Store) -> None:
    """Every row is counted by its status."""
    report = verify(store)
    assert report.problems == []
    assert report.counts == {"edited": 2, "failed": 1, "unchanged": 1}
    assert (report.num_shards, report.num_rows) == (1, 4)


def mark(store: Store, **changes: Any) -> None:
    """Changes values in the marker, and takes its digest out, which would find the change."""
    marker = json.loads(store.get("0_stats.json"))
    store.put("0_stats.json", json.dumps(marker | changes | {"digest": ""}).encode())


def replace_object(store: Store, kind: str, data: bytes) -> None:
    """Replaces the tar or the Parquet file, with a marker that matches it."""
    store.put(f"0.{kind}", data)
    digest = hashlib.sha256(data).hexdigest()
    mark(store, **{f"{kind}_bytes": len(data), f"{kind}_sha256": digest})


def change_members(store: Store, change: Callable[[dict[str, bytes]], object]) -> None:
    members = dict(read_members(store.get("0.tar"))[0])
    change(members)
    replace_object(store, "tar", shard_bytes([members]))


def in_force(store: Store, filters: list[str], *, applied: bool = True) -> None:
    """Records other filters as those in force."""
    store.put(FILTERS_FILE, FiltersInForce(filters, applied).to_json())


def change_rows(store: Store, change: Callable[[list[dict[str, Any]]], object]) -> None:
    rows = pq.read_table(io.BytesIO(store.get("0.parquet"))).to_pylist()
    change(rows)
    table = pa.Table.from_pylist(rows, schema=ROW_SCHEMA)
    replace_object(store, "parquet", to_parquet(table))


def flip(store: Store, name: str) -> None:
    data = bytearray(store.get(name))
    data[len(data) // 2] ^= 1
    store.put(name, bytes(data))


@pytest.mark.parametrize(
    ("change", "line"),
    [
        (lambda s: flip(s, "0.tar"), "0.tar does not have the sha256"),
        (lambda s: flip(s, "0.parquet"), "0.parquet does not have the sha256"),
        (lambda s: s.put("0.tar", s.get("0.tar")[:-512]), "bytes, the marker says"),
        (lambda s: s.delete("0.tar"), "0.tar cannot be read: FileNotFoundError"),
        (lambda s: s.put("0_stats.json", b"{"), "the marker cannot be read"),
        (lambda s: s.put("0_stats.json", b"{}"), "the marker cannot be read"),
        (lambda s: mark(s, shard="1"), "names another shard, '1'"),
        (lambda s: mark(s, fingerprint="beef"), "fingerprint is beef, the run's is f00d"),
        (lambda s: mark(s, counts={"edited": 9}), "the marker says"),
        (lambda s: s.delete("_run/run.json"), "_run/run.json: missing"),
        (lambda s: s.put("_run/run.json", b"[]"), "has no fingerprint"),
        (lambda s: s.delete("_run/filters.json"), "_run/filters.json: missing"),
        (lambda s: s.put("_run/config.yaml", b""), "_run/inputs.json: missing"),
        (lambda s: s.put("_run/inputs.json", b"null"), "_run/inputs.json: is damaged"),
        (lambda s: s.put("_run/inputs.json", INPUTS), "1: an input of the run, but not published"),
        (lambda s: s.put("_run/filters.json", b"[]"), "has no filters"),
        (lambda s: in_force(s, [], applied=False), "not applied to all shards yet"),
        (lambda s: in_force(s, ["mask_area >= 2"]), "published with other filters"),
        (lambda s: in_force(s, ["mask_area >= 2"]), "rows do not follow the filters in force"),
        (lambda s: s.put("_rejected/0.tar", b""), "exists, but the marker does not list it"),
        (lambda s: s.put("stray.tar", b""), "stray.tar: belongs to no published shard"),
        (lambda s: s.put(StagedPart("0", 0, 1).name, b""), "part (its shard is published)"),
        (lambda s: s.put(claim_name("0"), b""), "part (its shard is published)"),
        (lambda s: s.put(StagedPart("9", 0, 1).name, b""), "its shard is not published"),
        (lambda s: replace_object(s, "parquet", b"PAR1"), "Parquet file cannot be read"),
        (
            lambda s: replace_object(s, "parquet", to_parquet(pa.table({"a": [1]}))),
            "another schema",
        ),
        (lambda s: change_rows(s, lambda r: r.append(r[0])), "edit 0 of 'a' has 2 rows"),
        (lambda s: change_rows(s, lambda r: r[0].update(shard="x")), "names another shard, 'x'"),
        (lambda s: change_rows(s, lambda r: r[0].update(fingerprint="x")), "another fingerprint"),
        (lambda s: change_rows(s, lambda r: r[0].update(status="odd")), "unknown status: odd"),
        (lambda s: change_rows(s, lambda r: r[3].update(error=None)), "failed without a reason"),
        (lambda s: change_rows(s, lambda r: r[0].update(output_key="x")), "the output key 'x'"),
        (lambda s: change_rows(s, lambda r: r.pop(0)), "a_0: members in the tar of edited"),
        (lambda s: change_members(s, lambda m: m.pop("a_0.png")), "no image with the row's"),
        (lambda s: change_members(s, lambda m: m.pop("a_0.txt")), ".txt is missing"),
        (lambda s: change_members(s, lambda m: m.pop("a_0.json")), ".json is missing"),
        (lambda s: change_members(s, lambda m: m.pop("a_0.mask.png")), ".mask.png is missing"),
        (
            lambda s: change_members(s, lambda m: m.update({"a_0.png": m["a_1.mask.png"]})),
            "no image with the row's sha256",
        ),
        (
            lambda s: change_members(s, lambda m: [m.pop(n) for n in list(m) if n[:3] == "a_1"]),
            "a_1: the row is edited, but has no",
        ),
        (lambda s: change_members(s, lambda m: m.update({"z_0.txt": b""})), "z_0: members in"),
        (lambda s: replace_object(s, "tar", s.get("0.tar").rstrip(b"\0")), "the tar is truncated"),
    ],
)
def test_every_fault_is_reported(store: Store, change: Change, line: str) -> None:
    """The output has one deliberate fault, and the audit reports it."""
    change(store)
    problems = verify(store).problems
    assert any(line in problem for problem in problems), problems


def test_an_empty_output_does_not_pass(tmp_path: Path) -> None:
    """A folder in which nothing is published has a problem."""
    assert verify(Store(str(tmp_path))).problems
