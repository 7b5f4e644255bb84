"""The gallery's data: rows and images as the page carries them, within a number of bytes."""

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

PROBED = 32  # edits whose images are made to learn how many bytes one takes
SAFETY = 0.97  # of the bytes left, for what the probe did not see


@dataclass
class Gallery:
    """What the page's script reads, and how much of the output it is."""

    tree: dict[str, Any]  # JSON-able: columns, rows
    chunks: list[str]  # lines of base64, in chunks of packing.py's size
    num_rows: int = 0
    num_with_images: int = 0
    num_images: int = 0
    shards_with_images: int = 0
    missing_inputs: dict[str, str] = field(default_factory=dict)  # shard -> why


def make_gallery(found: Output, reader: ShardImages, settings: Report, room: int) -> Gallery:
    """Chooses edits, reads their images and packs both.

    Args:
        found: of ``read_output``.
        reader: of the images.
        settings: how many edits, how many bytes to read.
        room: bytes that the gallery may take in the page.
    """
    shards = image_shards(found, reader.inputs, settings.read_bytes)
    rows = chosen_rows(found, shards, settings.max_edits)
    tree, size = row_tree(found, rows)
    while size > room // 2 and len(rows) > 1:
        rows = [rows[place] for place in stratified(_strata(rows), len(rows) // 2)]
        tree, size = row_tree(found, rows)
    packed = Packed(room - size)
    wanted = [place for place, row in enumerate(rows) if row["shard"] in shards]
    _fill(packed, rows, wanted, found, reader)
    for place, of_row in packed.of_row.items():
        tree["rows"][place][-3:] = of_row
    shown = {rows[place]["shard"] for place in packed.of_row}
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
    names = sorted(set(found.rows.column("shard").to_pylist()))
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
    places = [int((2 * number + 1) * len(names) / (2 * count)) for number in range(count)]
    chosen: set[str] = set()
    left = float(read_bytes)
    for place in places:
        left -= sizes[names[place]]
        if left < 0 and chosen:
            break
        chosen.add(names[place])
    return chosen


def chosen_rows(found: Output, shards: set[str], limit: int) -> list[Row]:
    """The rows of the gallery, in the output's order.

    Rows with an image are taken from the shards whose images are read; failed ones from all.
    """
    table = found.rows
    statuses = table.column("status").to_pylist()
    of_shard = table.column("shard").to_pylist()
    places = [
        place
        for place, (status, shard) in enumerate(zip(statuses, of_shard, strict=True))
        if shard in shards or status == Status.FAILED
    ]
    stages, errors = (table.column(name).to_pylist() for name in ("stage", "error"))
    strata = [(statuses[place], stages[place], errors[place]) for place in places]
    scores = [_values(found, score.name)[places] for score in found.scores]
    chosen = stratified(strata, limit, extremes(scores))
    rows: list[Row] = table.take([places[number] for number in chosen]).to_pylist()
    return rows


def _values(found: Output, name: str) -> np.ndarray:
    return np.asarray(found.rows.column(name).to_pandas(), dtype=np.float64)


def _strata(rows: list[Row]) -> list[tuple[str, str | None, str | None]]:
    return [(row["status"], row["stage"], row["error"]) for row in rows]


def _fill(
    packed: Packed, rows: list[Row], wanted: list[int], found: Output, reader: ShardImages
) -> None:
    """Packs the images of the wanted rows; of a stratified sample where not all have room."""
    by_shard = _by_shard(rows, wanted)
    if len(wanted) > PROBED:
        probe = Packed(packed.room)
        shard, places = max(by_shard.items(), key=lambda item: (len(item[1]), item[0]))
        _pack(probe, rows, shard, places[:PROBED], reader)
        used = (packed.room - probe.room) / min(PROBED, len(places))
        fitting = int(SAFETY * packed.room / max(used, 1.0))
        if fitting < len(wanted):
            scores = [
                np.array([number_of(rows[place][score.name]) for place in wanted], np.float64)
                for score in found.scores
            ]
            strata = _strata([rows[place] for place in wanted])
            chosen = stratified(strata, fitting, extremes(scores))
            by_shard = _by_shard(rows, [wanted[number] for number in chosen])
    for shard, places in sorted(by_shard.items()):
        _pack(packed, rows, shard, places, reader)


def _by_shard(rows: list[Row], places: list[int]) -> dict[str, list[int]]:
    by_shard: dict[str, list[int]] = defaultdict(list)
    for place in places:
        by_shard[rows[place]["shard"]].append(place)
    return by_shard


def _pack(
    packed: Packed, rows: list[Row], shard: str, places: list[int], reader: ShardImages
) -> None:
    shown = reader.read(shard, [rows[place] for place in places])
    for place in places:
        packed.add(place, shown[rows[place]["key"], rows[place]["edit_index"]])
