"""What a mix says of itself: its plan, the marker of each shard, and whether the tars are those."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from typing import Any

from pipeline.records.run_files import Count, parse_record
from pipeline.storage.retry import StorageError
from pipeline.storage.store import Store

PLAN_FILE = "_mix/plan.json"
MARKERS = "_mix/shards/"
MANIFEST = "manifest.json"
VERSION = 2  # of a mix; it changes when the same plan would give other bytes
OF_PLAN = "restore it, or choose another folder for the mix"
OF_MARKER = "remove it, and run the same mix again, which writes the shard anew"
OF_MANIFEST = "run the same mix again, which writes it anew"


@dataclass
class MixedSplit:
    """What a shard of the mix has in one split."""

    original: Count = 0
    edited: Count = 0
    tar: str | None = None  # None: nothing of the shard is in this split
    bytes: Count = 0
    sha256: str | None = None


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

    def tree(self) -> dict[str, Any]:
        """JSON-able, as it is written."""
        splits = {name: _without_tar(split) for name, split in self.splits.items()}
        return asdict(self) | {"splits": splits}


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


def wrong_tars(output: Store, mixed: MixedShard) -> Iterator[str]:
    """A line for each tar of a shard that is not what its marker says. Reads all of them."""
    for split in mixed.splits.values():
        if split.tar is not None:
            _, problem = read_tar(output, split)
            yield from [problem] if problem else []


def read_tar(output: Store, split: MixedSplit) -> tuple[bytes, str | None]:
    """A tar of the mix, empty if it cannot be read, and how it differs from its marker, if so."""
    name = split.tar or ""
    try:
        data = output.get(name)
    except (FileNotFoundError, StorageError, ValueError) as error:
        return b"", f"{name} cannot be read: {type(error).__name__}"
    if len(data) != split.bytes:
        return data, f"{name} has {len(data)} bytes, the marker says {split.bytes}"
    if hashlib.sha256(data).hexdigest() != split.sha256:
        return data, f"{name} does not have the sha256 in the marker"
    return data, None


def _without_tar(split: MixedSplit) -> dict[str, Any]:
    tree = asdict(split)
    return tree if split.tar is not None else {name: tree[name] for name in ("original", "edited")}
