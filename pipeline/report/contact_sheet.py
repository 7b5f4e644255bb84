"""A PNG that shows some edits: before, difference map, mask and after, with both texts."""

from __future__ import annotations

import io
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow.parquet as pq
from PIL import Image, ImageDraw, ImageFont

from pipeline.plan.plan import Plan
from pipeline.records.part import Status
from pipeline.steps.prepare import Preparation, prepare
from pipeline.steps.read import read_parts
from pipeline.storage.archive import find_samples
from pipeline.storage.content import Span
from pipeline.storage.layout import tar_name
from pipeline.storage.shards import expand_shards

NUM_EDITS = 16  # at most
TILE = 144  # side in pixels
GAP = 6
TEXT_HEIGHT = 40
SHEET_COLUMNS = 2
TITLES = ("before", "difference", "mask", "after")
PAPER, INK, FAINT = (250, 250, 248), (30, 30, 30), (120, 120, 120)


@dataclass
class _Entry:
    caption: str
    edit_text: str
    tiles: list[Image.Image | None]


def contact_sheet(plan: Plan) -> bytes | None:
    """Draws edits, evenly spaced over the published shards of a run.

    Args:
        plan: the run; its input shards are read again for the images before the edit.

    Returns:
        The bytes of a PNG, or None if the run edited nothing.
    """
    entries = []
    for shard, rows in _choose(plan).items():
        entries += _entries(plan, shard, rows)
    return _draw(entries) if entries else None


def _choose(plan: Plan) -> dict[str, list[dict[str, Any]]]:
    """Edited rows by shard, evenly spaced over all edited rows."""
    output = plan.output
    edited = []
    for shard in plan.published:
        table = pq.read_table(io.BytesIO(output.get(f"{shard}.parquet")))
        edited += [row for row in table.to_pylist() if row["status"] == Status.EDITED]
    if not edited:
        return {}
    indices = np.linspace(0, len(edited) - 1, min(NUM_EDITS, len(edited))).round().astype(int)
    chosen: dict[str, list[dict[str, Any]]] = {}
    for index in indices:
        chosen.setdefault(edited[index]["shard"], []).append(edited[index])
    return chosen


def _entries(plan: Plan, shard: str, rows: list[dict[str, Any]]) -> list[_Entry]:
    """The tiles of the chosen rows of one shard."""
    before = _before(plan, shard, {row["key"] for row in rows})
    members = find_samples(plan.output.open(tar_name(shard)))
    suffix = plan.config.output.format
    entries = []
    for row in rows:
        own = members.get(row["output_key"], {})
        tiles = [before.get(row["key"])]
        tiles += [_image(own.get(name)) for name in ("difference.png", "mask.png", suffix)]
        entries.append(_Entry(row["caption"], row["edit_text"], tiles))
    return entries


def _before(plan: Plan, shard: str, keys: set[str]) -> dict[str, Image.Image]:
    """The prepared input images of some keys of a shard."""
    config = plan.config
    shards = expand_shards(config.input.shards, config.input.storage_options)
    wanted = next(item for item in shards if item.name == shard)
    how = Preparation.of(config, plan.model.sizes_for(config.model))
    images = {}
    for part in read_parts(wanted, config.input, config.run.part_size):  # in any order
        part.samples = [sample for sample in part.samples if sample.key in keys]
        for sample in prepare(part, how).samples:
            if sample.image is not None:
                images[sample.key] = Image.fromarray(sample.image)
    return images


def _image(data: Span | None) -> Image.Image | None:
    return None if data is None else Image.open(io.BytesIO(bytes(data))).convert("RGB")


def _draw(entries: list[_Entry]) -> bytes:
    """Lays the entries out in columns and encodes the sheet."""
    width = len(TITLES) * (TILE + GAP) + 2 * GAP
    height = TILE + TEXT_HEIGHT + GAP
    lines = -(-len(entries) // SHEET_COLUMNS)
    columns = min(SHEET_COLUMNS, len(entries))
    header = 24
    sheet = Image.new("RGB", (columns * width + GAP, lines * height + header + GAP), PAPER)
    draw = ImageDraw.Draw(sheet)
    font = ImageFont.load_default(size=13)
    for column in range(columns):
        for number, title in enumerate(TITLES):
            draw.text((column * width + GAP + number * (TILE + GAP), 6), title, FAINT, font)
    for index, entry in enumerate(entries):
        left = (index % columns) * width + GAP
        top = (index // columns) * height + header
        for number, tile in enumerate(entry.tiles):
            corner = (left + number * (TILE + GAP), top)
            if tile is None:
                draw.rectangle((*corner, corner[0] + TILE, corner[1] + TILE), outline=FAINT)
            else:
                _paste(sheet, tile, corner)
        draw.text((left, top + TILE + 3), _fit(entry.caption, font, width), FAINT, font)
        draw.text((left, top + TILE + 19), _fit(f"to: {entry.edit_text}", font, width), INK, font)
    buffer = io.BytesIO()
    sheet.save(buffer, "PNG")
    return buffer.getvalue()


def _paste(sheet: Image.Image, tile: Image.Image, corner: tuple[int, int]) -> None:
    """Pastes an image, scaled to a tile in its own shape, into the middle of the tile."""
    scale = TILE / max(tile.size)
    width, height = (max(1, round(side * scale)) for side in tile.size)
    left, top = corner[0] + (TILE - width) // 2, corner[1] + (TILE - height) // 2
    sheet.paste(tile.resize((width, height), Image.Resampling.BICUBIC), (left, top))


def _fit(text: str, font: Any, width: int) -> str:
    """The text, truncated with an ellipsis to fit the width in pixels."""
    if font.getlength(text) <= width - 2 * GAP:
        return text
    while text and font.getlength(text + "…") > width - 2 * GAP:
        text = text[:-1]
    return text + "…"
