"""Plans a pack: reads all texts, lists all images, and cuts them into shards."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from itertools import pairwise

from pipeline.config.pack import Packing
from pipeline.pack.found import Found, Item, LeftOut, PackError
from pipeline.pack.record import VERSION, PackRecord, read_plan
from pipeline.pack.sources import find_sources
from pipeline.records.run_files import sealed_json
from pipeline.storage.one_plan import check_same_plan
from pipeline.storage.store import Store
from pipeline.storage.urls import local_path

ShardItems = tuple[str, Sequence[Item]]  # a shard's name, and what is packed into it


@dataclass(frozen=True)
class PackPlan:
    """A checked pack."""

    packing: Packing
    found: list[Found]  # of each source

    @property
    def output(self) -> Store:
        return Store(self.packing.output.path, self.packing.output.storage_options)

    @cached_property
    def items(self) -> list[Item]:
        """All images, in the order in which they are packed."""
        return [item for one in self.found for item in one.items]

    @property
    def left_out(self) -> LeftOut:
        """What is left out before any image is read."""
        left_out = LeftOut()
        for one in self.found:
            left_out.join(one.left_out.counts, one.left_out.names)
        return left_out

    @property
    def classes(self) -> list[str]:
        return next((one.classes for one in self.found if one.classes), [])

    @cached_property
    def shards(self) -> list[ShardItems]:
        """Name and images of each shard; their sizes differ by one at most."""
        items = self.items
        count = -(-len(items) // self.packing.pack.samples_per_shard)
        cuts = [len(items) * number // count for number in range(count + 1)] if count else [0]
        return [
            (f"{number:05d}", items[start:end])
            for number, (start, end) in enumerate(pairwise(cuts))
        ]

    @cached_property
    def record(self) -> PackRecord:
        """The plan as it is written; where sources and output lie does not belong to it."""
        pack = self.packing.pack.model_dump(mode="json", exclude={"images", "max_left_out_share"})
        if not pack["class_masks"]:  # packs from before there were such say nothing of them
            del pack["class_masks"]
        digest = hashlib.sha256()
        for item in self.items:
            line = [item.key, item.name, item.stat.size, item.stat.etag, item.caption, item.edits]
            line += [item.label, item.boxes, item.yolo, item.columns]
            digest.update(json.dumps(line, sort_keys=True, default=str).encode())
        digest.update(json.dumps(self.classes).encode())
        shards = len(self.shards)
        return PackRecord(VERSION, pack, digest.hexdigest(), len(self.items), shards)


def make_pack_plan(packing: Packing) -> PackPlan:
    """Lists and reads the sources, and compares the plan with what the output holds.

    Raises:
        PackError: a source cannot be packed, no sample is left, or the output holds something else.
        RunFileError: the output's own plan cannot be used.
        ValueError, OSError: a path is refused or cannot be read.
    """
    _check_paths(packing)
    plan = PackPlan(packing, find_sources(packing))
    if not plan.items:
        reasons = "; ".join(plan.left_out.lines()) or "the sources are empty"
        raise PackError(f"source.paths={packing.source.paths}: nothing is left to pack: {reasons}")
    _check_same(plan)
    return plan


def _check_paths(packing: Packing) -> None:
    """Checks that neither the output nor a source contains the other.

    A folder of images that a table names may contain the output: it is read for images alone.
    """
    output = _place(packing.output.path)
    for path in packing.source.paths:
        source = _place(path)
        for inner, outer in ((source, output), (output, source)):
            if f"{inner}/".startswith(f"{outer}/"):
                raise PackError(
                    f"output.path={packing.output.path!r} and the source {path!r} must not contain "
                    "each other; choose another folder for the shards"
                )


def _place(url: str) -> str:
    return url.rstrip("/") if "://" in url else local_path(url)


def _check_same(plan: PackPlan) -> None:
    """Checks that the output is empty or holds this same pack, finished or not."""
    check_same_plan(
        plan.output,
        "pack",
        read=lambda: asdict(read_plan(plan.output)),
        wanted=asdict(plan.record),
        otherwise="other images or texts, or changed ones",
        error=PackError,
        prefix="pack.",
    )


def plan_json(record: PackRecord) -> bytes:
    """The content of ``_pack/plan.json``."""
    return sealed_json(asdict(record))
