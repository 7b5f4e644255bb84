"""The names of an output's objects, and the state of every shard from one listing.

A **generation** of a shard is what one content of the input gives, cut to what ``input.limit``
takes of it. Its parts carry it in their names, so that parts of two contents never meet.
"""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from dataclasses import dataclass

from pipeline.storage.store import Store

PARTS = "_parts/"
RUN = "_run/"
REJECTED = "_rejected/"
GENERATION_DIGITS = 12
PROBE = re.compile(r"_run/probe-[0-9a-f]{32}")
PART = re.compile(
    r"_parts/(?P<shard>.+)/(?P<index>\d{5,})-of-(?P<num>\d{5,})(-(?P<generation>[0-9a-f]{12}))?\.arrow"
)
CLAIM = re.compile(r"_parts/(?P<shard>.+)/generation\.claim")


PartId = tuple[str, int, int]  # generation, number of parts, index


@dataclass(frozen=True, slots=True)
class StagedPart:
    """What the name of a staged part says. An output of 0.1.0 has no generation: ""."""

    shard: str
    index: int
    num_parts: int
    generation: str = ""

    @property
    def id(self) -> PartId:
        return self.generation, self.num_parts, self.index

    @property
    def name(self) -> str:
        end = f"-{self.generation}" if self.generation else ""
        return f"{PARTS}{self.shard}/{self.index:05d}-of-{self.num_parts:05d}{end}.arrow"


@dataclass(slots=True)
class ShardState:
    """What an output holds of one shard."""

    published: bool = False
    staged: frozenset[PartId] = frozenset()  # leftovers if published

    @property
    def progress(self) -> tuple[int, int | None]:
        """Of the set of parts with the most staged ones: how many, and of how many."""
        return progress_of(self.staged)


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


def progress_of(staged: frozenset[PartId]) -> tuple[int, int | None]:
    """How many parts are staged of how many, in the set of parts with the most of them."""
    sets = Counter((generation, num_parts) for generation, num_parts, _ in staged)
    if not sets:
        return 0, None
    (_, num_parts), most = max(sets.items(), key=lambda item: item[1])
    return most, num_parts


def generation_of(input_sha256: str, max_edits: int | None) -> str:
    """12 digits: of the input's content, and of what ``input.limit`` takes of it."""
    if max_edits is None:
        return input_sha256[:GENERATION_DIGITS]
    text = f"{input_sha256} {max_edits}"
    return hashlib.sha256(text.encode()).hexdigest()[:GENERATION_DIGITS]


def claim_name(shard: str) -> str:
    """Says which generation of a shard is published; written once, before anything is."""
    return f"{PARTS}{shard}/generation.claim"


def parse_part(name: str) -> StagedPart | None:
    """What a staged part's name says; None for any other name."""
    match = PART.fullmatch(name) if name.startswith(PARTS) else None
    if match is None:
        return None
    return StagedPart(
        match["shard"], int(match["index"]), int(match["num"]), match["generation"] or ""
    )


def parse_claim(name: str) -> str | None:
    """The shard of a claim's name; None for any other name."""
    match = CLAIM.fullmatch(name) if name.startswith(PARTS) else None
    return match["shard"] if match else None


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
    staged: dict[str, set[PartId]] = {}
    for name in listing:
        shard, part = marked_shard(name), parse_part(name)
        if shard is not None:
            state.setdefault(shard, ShardState()).published = True
        elif part is not None:
            state.setdefault(part.shard, ShardState())
            staged.setdefault(part.shard, set()).add(part.id)
    for shard, parts in staged.items():
        state[shard].staged = frozenset(parts)
    return state


def sweep(store: Store) -> list[str]:
    """Removes objects that no run needs any more, and returns their names.

    These are the parts and claims of published shards, probes, and temporary files of killed local
    writers that are at least an hour old.
    """
    listing = store.list()
    state = state_of(listing)
    leftovers = []
    for name in listing:
        part = parse_part(name)
        shard = part.shard if part is not None else parse_claim(name)
        if PROBE.fullmatch(name) or (shard in state and state[shard].published):
            leftovers.append(name)
    for name in leftovers:
        store.delete(name)
    return [*leftovers, *store.remove_temporaries()]
