"""The names of an output's objects, and the state of every shard from one listing."""

from __future__ import annotations

import re
from dataclasses import dataclass

from pipeline.storage.store import Store

PARTS = "_parts/"
RUN = "_run/"
REJECTED = "_rejected/"
PROBE = re.compile(r"_run/probe-[0-9a-f]{32}")
PART = re.compile(r"_parts/(?P<shard>.+)/(?P<index>\d{5,})-of-(?P<num>\d{5,})\.arrow")


@dataclass(slots=True)
class ShardState:
    """What an output holds of one shard."""

    published: bool = False
    staged: frozenset[int] = frozenset()  # indices of staged parts; leftovers if published
    num_parts: int | None = None  # from the names of the staged parts


def tar_name(shard: str) -> str:
    return f"{shard}.tar"


def parquet_name(shard: str) -> str:
    return f"{shard}.parquet"


def rejected_name(shard: str) -> str:
    """The tar of the images that a filter rejected."""
    return f"{REJECTED}{shard}.tar"


def marker_name(shard: str) -> str:
    """The marker: it is written last, so a shard that has one is done."""
    return f"{shard}_stats.json"


def part_name(shard: str, index: int, num_parts: int) -> str:
    return f"{PARTS}{shard}/{index:05d}-of-{num_parts:05d}.arrow"


def parse_part(name: str) -> tuple[str, int, int] | None:
    """(shard, index, num_parts) of a staged part's name; None for any other name."""
    match = PART.fullmatch(name) if name.startswith(PARTS) else None
    if match is None:
        return None
    return match["shard"], int(match["index"]), int(match["num"])


def marked_shard(name: str) -> str | None:
    """The shard of a marker's name; None for any other name."""
    if name.startswith((PARTS, RUN, REJECTED)) or not name.endswith("_stats.json"):
        return None
    return name.removesuffix("_stats.json")


def output_state(store: Store) -> dict[str, ShardState]:
    """The state of every shard, from one listing. A shard without any object has no entry."""
    return state_of(store.list())


def state_of(listing: dict[str, int]) -> dict[str, ShardState]:
    """The state of every shard in a listing (``Store.list``)."""
    state: dict[str, ShardState] = {}
    staged: dict[str, set[int]] = {}
    for name in listing:
        shard, part = marked_shard(name), parse_part(name)
        if shard is not None:
            state.setdefault(shard, ShardState()).published = True
        elif part is not None:
            state.setdefault(part[0], ShardState()).num_parts = part[2]
            staged.setdefault(part[0], set()).add(part[1])
    for shard, indices in staged.items():
        state[shard].staged = frozenset(indices)
    return state


def sweep(store: Store) -> list[str]:
    """Removes objects that no run needs any more, and returns their names.

    These are the parts of published shards, probes, and temporary files of killed local writers
    that are at least an hour old.
    """
    listing = store.list()
    state = state_of(listing)
    leftovers = []
    for name in listing:
        part = parse_part(name)
        if PROBE.fullmatch(name) or (part is not None and state[part[0]].published):
            leftovers.append(name)
    for name in leftovers:
        store.delete(name)
    return [*leftovers, *store.remove_temporaries()]
