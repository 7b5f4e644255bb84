"""One listing gives the state of every shard; a sweep removes only leftovers."""

from __future__ import annotations

from pathlib import Path

from pipeline.storage.layout import ShardState, output_state, part_name, sweep
from pipeline.storage.store import Store


def test_one_listing_gives_the_state_of_every_shard(tmp_path: Path) -> None:
    """Markers are published shards, .arrow files are staged parts, other objects are ignored."""
    store = Store(str(tmp_path))
    for name in ("a.tar", "a.parquet", "a_stats.json", "deep/b.tar", "_run/x_stats.json"):
        store.put(name, b"x")
    for name in (part_name("a", 0, 2), part_name("deep/b", 1, 3), "_parts/c/readme.txt"):
        store.put(name, b"x")
    calls = []
    Store.hook = staticmethod(lambda when, operation, name: calls.append(operation))
    try:
        state = output_state(store)
    finally:
        Store.hook = None
    assert calls == ["list", "list"]  # before and after the one call
    assert state == {
        "a": ShardState(True, frozenset({0}), 2),
        "deep/b": ShardState(False, frozenset({1}), 3),
    }


def test_a_sweep_removes_only_leftovers(tmp_path: Path) -> None:
    """Parts of published shards and probes are removed; parts of unpublished shards stay."""
    store = Store(str(tmp_path))
    for name in ("a_stats.json", part_name("a", 0, 2), part_name("b", 0, 2), "_run/run.json"):
        store.put(name, b"x")
    probe = "_run/probe-" + "0" * 32
    store.put(probe, b"x")
    assert sweep(store) == [part_name("a", 0, 2), probe]
    assert list(store.list()) == [part_name("b", 0, 2), "_run/run.json", "a_stats.json"]
