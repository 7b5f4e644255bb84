"""What a mix says of itself: its plan, the marker of each shard, the manifest."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from typing import Any

from pipeline.records.run_files import Count, parse_record
from pipeline.storage.store import Store

PLAN_FILE = "_mix/plan.json"
MARKERS = "_mix/shards/"
MANIFEST = "manifest.json"
CARD = "README.md"
VERSION = 2  # of a mix; it changes when the same plan would give other bytes
OF_PLAN = "restore it, or choose another folder for the mix"
OF_MARKER = "remove it, and run the same mix again, which writes the shard anew"
OF_MANIFEST = "run the same mix again, which writes it anew"


@dataclass
class MixedSplit:
    """What a shard of the mix has in one split."""

    original: Count = 0
    edited: Count = 0
    # The object that holds its samples, or the page that lists its files (``trees.py``); None:
    # nothing of the shard is in this split.
    tar: str | None = None
    bytes: Count = 0
    sha256: str | None = None
    bytes_listed: Count = 0  # of the files on the page


@dataclass
class MixedShard:
    """The marker of a shard: how many images and edits were used or left out, and why."""

    shard: str
    splits: dict[str, MixedSplit] = field(default_factory=dict)
    images_left_out: dict[str, Count] = field(default_factory=dict)
    edits_left_out: dict[str, Count] = field(default_factory=dict)
    num_images: Count = 0
    num_rows: Count = 0
    class_of_source: Count = 0  # edits that keep their source's class
    problem: str | None = None  # why the input shard could not be read to its end
    suffixes: dict[str, Count] = field(default_factory=dict)  # of images, with their number

    def tree(self) -> dict[str, Any]:
        """JSON-able, as it is written."""
        splits = {name: _without_tar(split) for name, split in self.splits.items()}
        tree = asdict(self) | {"splits": splits}
        if not self.suffixes:
            del tree["suffixes"]
        return tree


@dataclass(frozen=True)
class MixRecord:
    """``_mix/plan.json``: everything that the written bytes depend on."""

    version: int
    mix: dict[str, Any]
    shards: list[dict[str, Any]]


@dataclass(frozen=True)
class ManifestSplit:
    """What the audit reads of a split in ``manifest.json``."""

    original: Count
    edited: Count
    shards: list[str]  # names of tars


@dataclass(frozen=True)
class Manifest:
    """What the audit reads of ``manifest.json``."""

    splits: dict[str, ManifestSplit]


def marker_name(shard: str) -> str:
    return f"{MARKERS}{shard}.json"


def read_plan(output: Store) -> MixRecord:
    """Raises FileNotFoundError, RunFileError."""
    place = f"{output.url}/{PLAN_FILE}"
    return parse_record(output.get(PLAN_FILE), place, MixRecord, remedy=OF_PLAN, newest=VERSION)


def read_mixed(output: Store, shard: str) -> MixedShard:
    """Raises FileNotFoundError, RunFileError."""
    name = marker_name(shard)
    return parse_record(output.get(name), f"{output.url}/{name}", MixedShard, remedy=OF_MARKER)


def read_manifest(output: Store) -> Manifest:
    """Raises FileNotFoundError, RunFileError."""
    place = f"{output.url}/{MANIFEST}"
    return parse_record(output.get(MANIFEST), place, Manifest, remedy=OF_MANIFEST)


def wrong_counts(mixed: MixedShard) -> Iterator[str]:
    """A line for each sum in a marker that does not add up."""
    splits = mixed.splits.values()
    images = sum(split.original for split in splits) + sum(mixed.images_left_out.values())
    if images != mixed.num_images:
        yield f"the marker counts {images} images by split and reason, {mixed.num_images} in all"
    edits = sum(split.edited for split in splits) + sum(mixed.edits_left_out.values())
    if edits != mixed.num_rows:
        yield f"the marker counts {edits} edits by split and reason, {mixed.num_rows} in all"


def _without_tar(split: MixedSplit) -> dict[str, Any]:
    tree = asdict(split)
    if not split.bytes_listed:
        del tree["bytes_listed"]
    return tree if split.tar is not None else {name: tree[name] for name in ("original", "edited")}
