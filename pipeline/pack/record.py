"""What a pack says of itself: its plan, and the marker of each shard."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

from pipeline.records.run_files import Count, parse_record
from pipeline.storage.store import Store

PLAN_FILE = "_pack/plan.json"
MARKERS = "_pack/shards/"
SUMMARY = "_pack/summary.json"
CLASSES = "classes.json"
VERSION = 1  # it changes when the same plan would give other bytes
OF_PLAN = "restore it, or choose another folder for the shards"
OF_MARKER = "remove it, and run the same command again, which writes the shard anew"


@dataclass(frozen=True)
class PackRecord:
    """``_pack/plan.json``: everything that the written bytes depend on."""

    version: int
    pack: dict[str, Any]
    sources_sha256: str  # of names, sizes, etags and texts of all images
    num_samples: Count
    num_shards: Count


@dataclass(frozen=True)
class PackedShard:
    """The marker of a shard, written after its tar."""

    tar: str
    samples: Count
    bytes: Count
    sha256: str
    left_out: dict[str, Count] = field(default_factory=dict)  # by reason, found while reading
    names_left_out: dict[str, list[str]] = field(default_factory=dict)  # the first of each reason

    def tree(self) -> dict[str, Any]:
        return asdict(self)


def marker_name(shard: str) -> str:
    return f"{MARKERS}{shard}.json"


def read_plan(output: Store) -> PackRecord:
    """Raises FileNotFoundError, RunFileError."""
    place = f"{output.url}/{PLAN_FILE}"
    return parse_record(output.get(PLAN_FILE), place, PackRecord, remedy=OF_PLAN, newest=VERSION)


def read_packed(output: Store, shard: str) -> PackedShard:
    """Raises FileNotFoundError, RunFileError."""
    name = marker_name(shard)
    return parse_record(output.get(name), f"{output.url}/{name}", PackedShard, remedy=OF_MARKER)
