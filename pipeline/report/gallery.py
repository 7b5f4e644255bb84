"""The gallery's data: chooses rows and images for the page, within a limit of bytes."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from pipeline.config.run import Report
from pipeline.records.part import Status
from pipeline.report.images import ShardImages
from pipeline.report.outputs import Output
from pipeline.report.packing import Packed, Row, number_of, row_tree
from pipeline.report.sample import extremes, stratified
from pipeline.storage.shards import InputShard

PROBED = 32  # edits whose images are made to estimate the bytes per edit
SAFETY = 0.97  # share of the remaining bytes to plan for, because the estimate is not exact


@dataclass
class Gallery:
    """The data for the page's script, and how much of the output it covers."""

    tree: dict[str, Any]  # JSON-able: columns, rows
    chunks: list[str]  # lines of base64, ``IMAGES_IN_CHUNK`` in each
    num_rows: int = 0
    num_with_images: int = 0
    num_images: int = 0
    shards_with_images: int = 0
    missing_inputs: dict[str, str] = field(default_factory=dict)  # shard -> why


def make_gallery(found: Output, reader: ShardImages, settings: Report, room: int) -> Gallery:
    """Chooses edits, reads their images and packs both.

    Args:
        found: from ``read_output``.
        reader: reads the images.
        settings: the largest number of edits, and of bytes to read.
        room: the bytes that the gallery may use in the page.
    """
    shards = image_shards(found, reader.inputs, settings.read_bytes)
    rows = chosen_rows(found, shards, settings.max_edits)
    tree, size = row_tree(found, rows)
    while size > room // 2 and len(rows) > 1:
        rows = [rows[index] for index in stratified(_strata(rows), len(rows) // 2)]
        tree, size = row_tree(found, rows)
    packed = Packed(room - size)
    wanted = [index for index, row in enumerate(rows) if row["shard"] in shards]
    _fill(packed, rows, wanted, found, reader)
    for index, image_numbers in packed.of_row.items():
        tree["rows"][index][-3:] = image_numbers
    shown = {rows[index]["shard"] for index in packed.of_row}
    return Gallery(
        tree=tree,
        chunks=packed.chunks(),
        num_rows=len(rows),
        num_with_images=len(packed.of_row),
        num_images=len(packed.lines),
        shards_with_images=len(shown),
        missing_inputs=dict(sorted(reader.missing_inputs.items())),
    )


def image_shards(found: Output, inputs: dict[str, InputShard], read_bytes: int) -> set[str]:
    """The shards whose images are read: all, or evenly spaced ones within ``read_bytes``."""
    names = sorted(set(found.texts("shard")))
    sizes = {
        name: found.markers[name].tar_bytes
        + found.markers[name].rejected_bytes
        + (inputs[name].size if name in inputs else 0)
        for name in names
    }
    if sum(sizes.values()) <= read_bytes:
        return set(names)
    mean = sum(sizes.values()) / len(names)
    count = max(1, int(read_bytes / mean))
    indices = [int((2 * number + 1) * len(names) / (2 * count)) for number in range(count)]
    chosen: set[str] = set()
    remaining = float(read_bytes)
    for index in indices:
        remaining -= sizes[names[index]]
        if remaining < 0 and chosen:
            break
        chosen.add(names[index])
    return chosen


def chosen_rows(found: Output, shards: set[str], limit: int) -> list[Row]:
    """The rows of the gallery, in the output's order.

    They come from the shards whose images are read; failed rows come from all shards.
    """
    statuses = found.texts("status")
    indices = [
        index
        for index, (status, shard) in enumerate(zip(statuses, found.texts("shard"), strict=True))
        if shard in shards or status == Status.FAILED
    ]
    stages, errors = found.column("stage"), found.column("error")
    strata = [(statuses[index], stages[index], errors[index]) for index in indices]
    scores = [_values(found, score.name)[indices] for score in found.scores]
    chosen = stratified(strata, limit, extremes(scores))
    return found.some([indices[number] for number in chosen])


def _values(found: Output, name: str) -> np.ndarray:
    return np.asarray(found.rows.column(name).to_pandas(), dtype=np.float64)


def _strata(rows: list[Row]) -> list[tuple[str, str | None, str | None]]:
    return [(row["status"], row["stage"], row["error"]) for row in rows]


def _fill(
    packed: Packed, rows: list[Row], wanted: list[int], found: Output, reader: ShardImages
) -> None:
    """Packs the images of the wanted rows, or of a stratified sample if not all of them fit."""
    by_shard = _by_shard(rows, wanted)
    if len(wanted) > PROBED:
        probe = Packed(packed.room)
        shard, indices = max(by_shard.items(), key=lambda item: (len(item[1]), item[0]))
        _pack(probe, rows, shard, indices[:PROBED], reader)
        bytes_per_edit = (packed.room - probe.room) / min(PROBED, len(indices))
        num_fitting = int(SAFETY * packed.room / max(bytes_per_edit, 1.0))
        if num_fitting < len(wanted):
            scores = [
                np.array([number_of(rows[index][score.name]) for index in wanted], np.float64)
                for score in found.scores
            ]
            strata = _strata([rows[index] for index in wanted])
            chosen = stratified(strata, num_fitting, extremes(scores))
            by_shard = _by_shard(rows, [wanted[number] for number in chosen])
    for shard, indices in sorted(by_shard.items()):
        _pack(packed, rows, shard, indices, reader)


def _by_shard(rows: list[Row], indices: list[int]) -> dict[str, list[int]]:
    by_shard: dict[str, list[int]] = defaultdict(list)
    for index in indices:
        by_shard[rows[index]["shard"]].append(index)
    return by_shard


def _pack(
    packed: Packed, rows: list[Row], shard: str, indices: list[int], reader: ShardImages
) -> None:
    images = reader.read(shard, [rows[index] for index in indices])
    for index in indices:
        packed.add(index, images[rows[index]["key"], rows[index]["edit_index"]])
