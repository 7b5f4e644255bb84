"""Writes the shards of a pack; images' bytes go into the tars as they are.

Objects are written whole. A shard's marker is written after its tar, the summary after all markers.

    OUT/00000.tar               <key>.jpg .txt .edit.txt .cls .boxes.json .seg.png .json
    OUT/classes.json            the names of classes by number, if there are classes
    OUT/_pack/plan.json         everything that the bytes depend on
    OUT/_pack/shards/00000.json the marker: counts, size, sha256
    OUT/_pack/summary.json      the sums, and what was left out
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from PIL import Image

from pipeline.pack.dataset import ROW
from pipeline.pack.found import Item, LeftOut, Reader, as_utf8
from pipeline.pack.masks import class_mask
from pipeline.pack.plan import PackPlan, ShardItems, plan_json
from pipeline.pack.record import (
    CLASSES,
    PLAN_FILE,
    SUMMARY,
    PackedShard,
    marker_name,
    read_packed,
)
from pipeline.pack.tables import ending_of
from pipeline.pack.yolo import boxes_of
from pipeline.records.run_files import NewerVersionError, RunFileError, sealed_json, to_json
from pipeline.storage.layout import tar_name
from pipeline.storage.local_folder import LocalFolder
from pipeline.storage.readers import READERS, in_threads
from pipeline.storage.store import Store
from pipeline.storage.tar_write import SampleTar

Work = Callable[[ShardItems], PackedShard]
Spread = Callable[[Work, Sequence[ShardItems]], Iterable[PackedShard]]
UNREADABLE = "files that cannot be read"
NOT_AN_IMAGE = "files that are no image"
GONE = (FileNotFoundError, PermissionError, IsADirectoryError)
WINDOW = 64  # images read ahead from a bucket
# How images begin, and where, by suffix. Files of other suffixes are taken whatever they hold.
BEGINNINGS = {"jpg": (b"\xff\xd8\xff", 0), "png": (b"\x89PNG\r\n\x1a\n", 0), "webp": (b"WEBP", 8)}


@dataclass(frozen=True)
class Packed:
    """What a pack has written."""

    samples: int
    shards: int
    bytes: int
    left_out: LeftOut

    @property
    def share_left_out(self) -> float:
        return self.left_out.total / max(1, self.samples + self.left_out.total)

    def tree(self) -> dict[str, Any]:
        """JSON-able: ``_pack/summary.json``."""
        left_out = {
            reason: {"count": count, "first": self.left_out.names.get(reason, [])}
            for reason, count in self.left_out.counts.items()
        }
        return {
            "samples": self.samples,
            "shards": self.shards,
            "bytes": self.bytes,
            "left_out": left_out,
        }


def run_pack(
    plan: PackPlan,
    on_shard: Callable[[PackedShard], None] | None = None,
    spread: Spread = map,
) -> Packed:
    """Writes the shards that are not written yet. After a kill, the same call resumes.

    Memory holds one shard at a time.

    Args:
        plan: from ``make_pack_plan``.
        on_shard: called for every shard, including those written before.
        spread: calls a function for every shard and yields the results in their order: in this
            process, or on a cluster.

    Raises:
        OSError: a store cannot be read or written.
        NewerVersionError: a newer version wrote a marker.
    """
    output, left_out = plan.output, plan.left_out
    output.put_if_absent(PLAN_FILE, plan_json(plan.record))
    if plan.classes:
        output.put_if_absent(CLASSES, to_json(plan.classes))
    work = partial(
        pack_shard,
        output=output,
        readers=_readers(plan),
        class_masks=plan.packing.pack.class_masks,
    )
    shards = []
    for packed in spread(work, plan.shards):
        left_out.join(packed.left_out, packed.names_left_out)
        shards.append(packed)
        if on_shard is not None:
            on_shard(packed)
    result = Packed(
        sum(packed.samples for packed in shards),
        len(shards),
        sum(packed.bytes for packed in shards),
        left_out,
    )
    output.put(SUMMARY, sealed_json(result.tree()))
    output.remove_temporaries()
    return result


def pack_shard(
    shard: ShardItems, output: Store, readers: Mapping[str, Reader], *, class_masks: bool
) -> PackedShard:
    """Writes a shard, unless an earlier run has."""
    name, items = shard
    return _written(output, name) or _write_shard(
        output, name, items, readers, class_masks=class_masks
    )


def _written(output: Store, shard: str) -> PackedShard | None:
    """The marker of an earlier run, if its tar has the size that it says."""
    try:
        packed = read_packed(output, shard)
        size = output.stat(packed.tar).size
    except (FileNotFoundError, RunFileError) as error:
        if isinstance(error, NewerVersionError):
            raise
        return None
    return packed if size == packed.bytes else None


def _write_shard(
    output: Store,
    name: str,
    items: Sequence[Item],
    readers: Mapping[str, Reader],
    *,
    class_masks: bool,
) -> PackedShard:
    """Writes a tar and its marker. A shard may become empty, if no file of it can be read."""
    tar, left_out, samples = SampleTar(), LeftOut(), 0
    threads = READERS if all(map(_is_far, readers.values())) else 1
    read, members_of = partial(_read, readers), partial(_members, class_masks=class_masks)
    for item, image in in_threads(read, items, threads=threads, window=WINDOW):
        members = image if isinstance(image, str) else members_of(item, image)
        if isinstance(members, str):
            left_out.add(members, item.name)
            continue
        tar.add(item.key, members)
        samples += 1
    data = tar.finished()
    packed = PackedShard(
        tar_name(name), samples, data.size, data.sha256, left_out.counts, left_out.names
    )
    output.put_spooled(packed.tar, data)
    output.put(marker_name(name), sealed_json(packed.tree()))
    return packed


def _readers(plan: PackPlan) -> dict[str, Reader]:
    """What reads the images of each folder."""
    readers: dict[str, Reader] = {}
    for one in plan.found:
        for folder in {item.folder for item in one.items}:
            options = plan.packing.source.storage_options
            readers[folder] = one.reader or Store(folder, options)
    return readers


def _is_far(reader: Reader) -> bool:
    """Whether several images are read at once: from a bucket; files on disk gain nothing by it."""
    return isinstance(reader, Store) and not isinstance(reader.backend, LocalFolder)


def _read(readers: Mapping[str, Reader], item: Item) -> bytes | str:
    """The bytes of an image, or the reason why it is left out."""
    try:
        data = readers[item.folder].get(item.name)
    except GONE:
        return UNREADABLE
    is_known = ending_of(item.name) in (*BEGINNINGS, "jpeg", ROW)
    return NOT_AN_IMAGE if is_known and _format_of(data) is None else data


def _format_of(data: bytes) -> str | None:
    """The suffix that an image's bytes ask for; None if they are no JPEG, PNG or WebP."""
    return next(
        (name for name, (magic, at) in BEGINNINGS.items() if data.startswith(magic, at)), None
    )


def _members(item: Item, image: bytes, *, class_masks: bool) -> dict[str, bytes] | str:
    """The files of a sample by suffix, or the reason why it is left out."""
    boxes = item.boxes
    if item.yolo is not None:
        try:
            boxes = boxes_of(*item.yolo, image)
        except (OSError, Image.DecompressionBombError):
            return NOT_AN_IMAGE
    origin: dict[str, Any] = {"source": as_utf8(item.name)}
    if item.columns:
        origin["columns"] = item.columns
    suffix = ending_of(item.name)
    members = {
        (_format_of(image) or ROW) if suffix == ROW else suffix: image,
        "txt": _encoded(item.caption),
        "json": _json({"pack": origin}),
    }
    if item.edits:
        members["edit.txt"] = _encoded("\n".join(item.edits))
    if item.label is not None:
        members["cls"] = str(item.label).encode()
    if boxes is not None:
        members["boxes.json"] = _json(boxes)
        if class_masks and (mask := class_mask(boxes)) is not None:
            members["seg.png"] = mask
    return members


def _json(tree: Any) -> bytes:
    return json.dumps(tree, ensure_ascii=True).encode()


def _encoded(text: str) -> bytes:
    """UTF-8; half of a surrogate pair, which JSON can hold, becomes a question mark."""
    return text.encode("utf-8", "replace")
