"""Publishing: whole shards, written once, with the same bytes whatever happens before."""

from __future__ import annotations

import io
import json
import uuid
from collections.abc import Iterable
from pathlib import Path
from typing import Any
from unittest import mock

import pyarrow.parquet as pq
import pytest

from pipeline.config.config import Config
from pipeline.records.part import Part
from pipeline.records.rows import ROW_SCHEMA
from pipeline.steps.marker import ShardStats
from pipeline.steps.publish import publish_if_complete
from pipeline.steps.staged_parts import claimed_parts
from pipeline.steps.verify import verify
from pipeline.storage.layout import StagedPart, output_state, sweep
from pipeline.storage.store import Store
from tests.committing import contents, make_config, run
from tests.samples import raw_sample, write_shard


@pytest.fixture
def config(tmp_path: Path) -> Config:
    write_shard(
        tmp_path / "in/0.tar",
        [
            raw_sample("a", ["a cat", "a fox"], seed=1, cls="7"),
            raw_sample("b", ["a dog"], seed=2),  # the edit text equals the caption
            raw_sample("dir/c.d", seed=3),
            raw_sample("e", ["1", "2", "3"], seed=4),
        ],
    )
    write_shard(tmp_path / "in/1.tar", [])
    return make_config(f"{tmp_path}/in/*.tar", run={"part_size": 2})


def without_times(files: dict[str, bytes]) -> dict[str, bytes]:
    """The files; in markers, everything that depends on the clock is removed."""
    stable = dict(files)
    for name in files:
        if name.endswith("_stats.json"):
            marker = json.loads(files[name])
            assert marker.pop("published_at")
            assert marker.pop("digest")
            stable[name] = json.dumps(marker).encode()
    return stable


def test_a_run_leaves_three_objects_per_shard(config: Config, tmp_path: Path) -> None:
    """Tar, Parquet file and marker stay, parts are gone, and the marker counts every row."""
    store = Store(str(tmp_path / "out"))
    run(config, store)
    assert list(store.list()) == [
        *("0.parquet", "0.tar", "0_stats.json"),
        *("1.parquet", "1.tar", "1_stats.json"),
        *("_run/filters.json", "_run/run.json"),
    ]
    stats = ShardStats.from_json(store.get("0_stats.json"))
    assert stats.counts == {"edited": 5, "unchanged": 1, "rejected": 0, "skipped": 0, "failed": 1}
    assert stats.failures == {"read: NoImage": 1}
    assert (stats.num_parts, stats.problem, stats.fingerprint) == (4, None, "f00d")
    assert stats.num_evals == {"mask": 120, "encode": 0, "decode": 480}
    assert (stats.hosts, stats.devices) == (["here"], ["cpu"])
    assert stats.model_revision == "r1"
    assert stats.seconds["read"] == 1.0
    empty = ShardStats.from_json(store.get("1_stats.json"))
    assert (empty.num_rows, empty.num_parts) == (0, 1)
    table = pq.read_table(io.BytesIO(store.get("0.parquet")))
    assert table.schema.equals(ROW_SCHEMA)
    assert table.num_rows == 7
    assert verify(store).problems == []


def test_bytes_do_not_depend_on_order_or_store(config: Config, tmp_path: Path) -> None:
    """Parts in reverse order, or another kind of store, give the same tars and Parquet files."""
    run(config, Store(str(tmp_path / "one")))

    def backwards(parts: Iterable[Part]) -> Iterable[Part]:
        return reversed(list(parts))

    run(config, Store(str(tmp_path / "two")), order=backwards)
    one = without_times(contents(tmp_path / "one"))
    assert one == without_times(contents(tmp_path / "two"))
    memory = Store(f"memory://{uuid.uuid4().hex}/out")
    run(config, memory)
    assert {name: memory.get(name) for name in one if name.endswith((".tar", ".parquet"))} == {
        name: data for name, data in one.items() if name.endswith((".tar", ".parquet"))
    }


def test_an_incomplete_shard_is_not_published(config: Config, tmp_path: Path) -> None:
    """While a part is missing, only staged parts of the shard exist."""
    store = Store(str(tmp_path / "out"))

    def all_but_one(parts: Iterable[Part]) -> Iterable[Part]:
        return [part for part in parts if part.index != 1]

    run(config, store, order=all_but_one)
    state = output_state(store)
    assert not state["0"].published
    assert {(num_parts, index) for _, num_parts, index in state["0"].staged} == {
        (4, 0), (4, 2), (4, 3),
    }  # fmt: skip
    assert state["1"].published
    assert publish_if_complete(store, "0") is None
    assert "0.tar" not in store.list()
    run(config, store)
    assert verify(store).problems == []


def test_a_torn_publish_is_repaired(config: Config, tmp_path: Path) -> None:
    """A tar and a Parquet file without a marker are written again from the parts."""
    whole, torn = Store(str(tmp_path / "whole")), Store(str(tmp_path / "torn"))
    run(config, whole)
    torn.put("0.tar", b"half a tar")
    torn.put("0.parquet", b"")
    run(config, torn)
    assert without_times(contents(tmp_path / "torn")) == without_times(contents(tmp_path / "whole"))


def test_running_again_changes_no_byte(config: Config, tmp_path: Path) -> None:
    """A second run finds every marker; even their times stay."""
    store = Store(str(tmp_path / "out"))
    run(config, store)
    before = contents(tmp_path / "out")
    run(config, store)
    assert contents(tmp_path / "out") == before


def test_a_task_whose_parts_are_gone_looks_for_the_marker(
    config: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another task publishes the shard while this one reads the parts."""
    store = Store(str(tmp_path / "out"))

    def all_but_last(parts: Iterable[Part]) -> Iterable[Part]:
        return list(parts)[:-1]

    run(config, store, order=all_but_last)
    seen: list[str] = []

    def publish_in_between(when: str, operation: str, name: str) -> None:
        is_third = name.startswith("_parts/0/00002-of-00004-")
        if (when, operation) == ("before", "get") and is_third and not seen:
            seen.append(name)
            assert publish_if_complete(Store(str(tmp_path / "out")), "0") is not None

    monkeypatch.setattr(Store, "hook", staticmethod(publish_in_between))
    run(config, store)
    assert seen
    assert verify(store).problems == []
    assert list(store.list("_parts/")) == []


def test_parts_of_two_runs_are_not_mixed(config: Config, tmp_path: Path) -> None:
    """Parts with another part count are of another set, and go once the shard is published."""
    store = Store(str(tmp_path / "out"))
    store.put(StagedPart("0", 0, 9).name, b"x")
    run(config, store)
    assert verify(store).problems == []
    assert list(store.list("_parts/")) == []


def test_shards_whose_names_begin_alike_stay_apart(tmp_path: Path) -> None:
    """The parts of shard a/b do not belong to shard a."""
    for name in ("a", "a/b"):
        write_shard(tmp_path / f"in/{name}.tar", [raw_sample(name[-1], ["1", "2", "3"])])
    config = make_config(f"{tmp_path}/in", run={"part_size": 1})
    store = Store(str(tmp_path / "out"))
    store.put(StagedPart("a/b", 8, 9).name, b"staged by another driver")
    run(make_config(f"{tmp_path}/in/*.tar", run={"part_size": 1}), store)
    assert [name for name in store.list() if name.endswith("_stats.json")] == ["a_stats.json"]
    store.delete(StagedPart("a/b", 8, 9).name)
    run(config, store)
    assert [name for name in store.list() if name.endswith(".json")] == [
        *("_run/filters.json", "_run/run.json", "a/b_stats.json", "a_stats.json")
    ]
    assert verify(store).num_rows == 6


class Killed(BaseException):
    """Stands in for SIGKILL: nothing catches it."""


def test_a_run_killed_at_any_storage_call_is_completed_by_the_next(tmp_path: Path) -> None:
    """After a kill before or after each call, a second run ends with the same bytes."""
    write_shard(tmp_path / "in/0.tar", [raw_sample("a", ["1", "2"]), raw_sample("b", suffix="jpg")])
    config = make_config(f"{tmp_path}/in/*.tar", run={"part_size": 2})
    calls: list[Any] = []
    Store.hook = staticmethod(lambda *call: calls.append(call))
    try:
        run(config, Store(str(tmp_path / "whole")))
        expected = without_times(contents(tmp_path / "whole"))
        for crash_at in range(len(calls)):
            left = [crash_at]

            def crash(*_: str, left: list[int] = left) -> None:
                left[0] -= 1
                if left[0] < 0:
                    raise Killed

            store = Store(str(tmp_path / f"out{crash_at}"))
            Store.hook = staticmethod(crash)
            with pytest.raises(Killed):
                run(config, store)
            Store.hook = None
            run(config, store)
            sweep(store)
            assert without_times(contents(tmp_path / f"out{crash_at}")) == expected, calls[crash_at]
    finally:
        Store.hook = None
    assert len(calls) > 30


def test_webdataset_reads_the_output(config: Config, tmp_path: Path) -> None:
    """Its reader finds every edited sample, with image, texts and mask."""
    import webdataset

    run(config, Store(str(tmp_path / "out")))
    samples = list(webdataset.WebDataset(str(tmp_path / "out/0.tar"), shardshuffle=False))
    assert [item["__key__"] for item in samples] == ["a_0", "a_1", "e_0", "e_1", "e_2"]
    assert [item["txt"].decode() for item in samples] == ["a cat", "a fox", "1", "2", "3"]
    for item in samples:
        assert {"png", "json", "mask.png"} <= set(item)
    assert samples[0]["cls"] == b"7"


def test_pyarrow_reads_the_rows(config: Config, tmp_path: Path) -> None:
    """All Parquet files of an output form one dataset."""
    import pyarrow.dataset as ds

    run(config, Store(str(tmp_path / "out")))
    files = [str(path) for path in (tmp_path / "out").glob("*.parquet")]
    table = ds.dataset(files).to_table(filter=ds.field("status") == "edited")
    assert table.column("edit_text").to_pylist() == ["a cat", "a fox", "1", "2", "3"]


def test_hugging_face_datasets_reads_the_output(
    tmp_path: Path,
) -> None:
    """load_dataset("webdataset", ...) needs the same members in every sample."""
    datasets = pytest.importorskip("datasets")
    write_shard(tmp_path / "in/0.tar", [raw_sample("a", ["a cat", "a fox"]), raw_sample("b")])
    run(make_config(f"{tmp_path}/in/*.tar"), Store(str(tmp_path / "out")))
    loaded = datasets.load_dataset(
        "webdataset",
        data_files={"train": [str(tmp_path / "out/0.tar")]},
        split="train",
        cache_dir=str(tmp_path / "cache"),
    )
    assert list(loaded["__key__"]) == ["a_0", "a_1", "b_0"]
    assert loaded[0]["png"].size == (32, 32)
    assert loaded[0]["json"]["edit_text"] == "a cat"


def test_parts_are_published_in_the_order_of_their_numbers() -> None:
    """From 100,000 parts on, numbers have six digits, which sort otherwise as text."""
    count = 100_001
    names = sorted(StagedPart("s", index, count).name for index in range(count))
    listing = dict.fromkeys(names, 1)
    store = mock.Mock(list=lambda prefix: listing, put_if_absent=lambda *_: True)
    staged = claimed_parts(store, "s")
    assert staged is not None
    assert [part.index for part in staged] == list(range(count))
    assert [part.name for part in staged] != names
