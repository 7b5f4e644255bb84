"""The input of these tests, and the part of their outputs that is compared."""

from __future__ import annotations

from typing import Any

from pipeline.storage.store import Store
from tests.samples import raw_sample, shard_bytes

SHARDS = {
    "0": [raw_sample("a", ["a cat", "a red dog"]), raw_sample("b", ["a dog"], seed=1)],
    "dir/1": [raw_sample("ü b/c.d", ["a cat"], seed=2), raw_sample("e", png=b"no image")],
}


def put_input(url: str, options: dict[str, Any]) -> None:
    """Puts the input shards into a store."""
    store = Store(url, options)
    for name, samples in SHARDS.items():
        store.put(f"{name}.tar", shard_bytes(samples))


def published(store: Store) -> dict[str, bytes]:
    """Every tar and Parquet file."""
    return {name: store.get(name) for name in store.list() if name.endswith((".tar", ".parquet"))}
