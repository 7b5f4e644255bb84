"""One listing gives the state of every shard; a sweep removes only leftovers."""

from __future__ import annotations

from pathlib import Path

from pipeline.storage.layout import (
    ShardState,
    StagedPart,
    claim_name,
    generation_of,
    output_state,
    parse_part,
    sweep,
)
from pipeline.storage.store import Store

OLD, NEW = "0123456789ab", "fedcba987654"


def test_one_listing_gives_the_state_of_every_shard(tmp_path: Path) -> None:
    """Markers are published shards, .arrow files are staged parts, other objects are ignored."""
    store = Store(str(tmp_path))
    for name in ("a.tar", "a.parquet", "a_stats.json", "deep/b.tar", "_run/x_stats.json"):
        store.put(name, b"x")
    parts = [("a", 0, 2, OLD), ("deep/b", 1, 3, OLD), ("deep/b", 0, 3, NEW), ("deep/b", 1, 3, NEW)]
    for name in (*(StagedPart(*part).name for part in parts), "_parts/c/readme.txt"):
        store.put(name, b"x")
    calls = []
    Store.hook = staticmethod(lambda when, operation, name: calls.append(operation))
    try:
        state = output_state(store)
    finally:
        Store.hook = None
    assert calls == ["list", "list"]  # before and after the one call
    assert state == {
        "a": ShardState(True, frozenset({(OLD, 2, 0)})),
        "deep/b": ShardState(False, frozenset({(OLD, 3, 1), (NEW, 3, 0), (NEW, 3, 1)})),
    }
    assert state["deep/b"].progress == (2, 3)


def test_a_sweep_removes_only_leftovers(tmp_path: Path) -> None:
    """Parts and claims of published shards and probes go; those of unpublished shards stay."""
    store = Store(str(tmp_path))
    parts = [StagedPart(shard, 0, 2, OLD).name for shard in "ab"]
    claims = [claim_name(shard) for shard in "ab"]
    for name in ("a_stats.json", *parts, *claims, "_run/run.json"):
        store.put(name, b"x")
    probe = "_run/probe-" + "0" * 32
    store.put(probe, b"x")
    assert sweep(store) == [parts[0], claims[0], probe]
    assert list(store.list()) == [parts[1], claims[1], "_run/run.json", "a_stats.json"]


def test_a_generation_is_what_is_taken_of_one_content() -> None:
    """Another content, or another share of it, gives other parts."""
    digests = ["a" * 64, "b" * 64]
    found = {generation_of(digest, limit) for digest in digests for limit in (None, 1, 2)}
    assert len(found) == 6
    part = StagedPart("deep/b", 12, 34, generation_of(digests[0], 1))
    assert parse_part(part.name) == part
    assert parse_part("_parts/a/00001-of-00002.arrow") == StagedPart("a", 1, 2, "")
    assert parse_part("_parts/a/00001-of-00002-xyz.arrow") is None
