"""Makes a published output without a model: fake images and scores; real tars, rows and markers.

For tests and measurements of code that reads an output. Equal arguments give equal bytes.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from PIL import Image, ImageDraw

from pipeline.config.filters import Filtering
from pipeline.plan.run_folder import resolved_yaml
from pipeline.records.part import Part
from pipeline.records.rows import STAGED_SCHEMA
from pipeline.steps.output_keys import output_key
from pipeline.steps.publish import publish_if_complete
from pipeline.steps.write_part import to_ipc, with_header
from pipeline.storage.layout import StagedPart
from pipeline.storage.saved_inputs import INPUTS_FILE
from pipeline.storage.shards import expand_shards
from pipeline.storage.store import Store
from tests.committing import make_config
from tests.samples import encode, write_shard

EDITS_OF_IMAGE = 4
SECONDS = {"read": 0.2, "prepare": 1.0, "mask": 14.0, "encode": 29.0, "decode": 57.0}
ANIMALS = ("dog", "cat", "fox", "horse", "cow", "sheep", "owl", "hare", "deer", "goat")
PLACES = ("on grass", "in snow", "on a beach", "in a room", "by a lake", "on a road")
Change = Callable[[dict[str, Any]], None]  # changes a staged row in place


def make_output(
    folder: Path,
    num_edits: int,
    *,
    shard_edits: int = 500,
    size: int = 256,
    change: Change | None = None,
    **sections: Any,
) -> Store:
    """Writes input shards to ``folder/in`` and a published output to ``folder/out``.

    Of every 20 edits one is unchanged and one failed; the others are edited.

    Args:
        folder: a local folder.
        num_edits: total number of rows.
        shard_edits: rows per shard.
        size: side of the images in pixels.
        change: called with every staged row before it is published. It may give the row "_files"
            by suffix, which its sample gets.
        sections: of the config.
    """
    config = make_config(f"{folder}/in/*.tar", **{"output": {"format": "jpg"}} | sections)
    output = Store(str(folder / "out"))
    for shard, first in enumerate(range(0, num_edits, shard_edits)):
        numbers = range(first, min(first + shard_edits, num_edits))
        rows = [_edit(number, size) for number in numbers]
        _publish(folder, output, f"{shard:05d}", rows, change, config.filtering)
    run = {"fingerprint": "f00d", "model": "bundled", "model_revision": "r1", "inputs": {}}
    output.put("_run/run.json", json.dumps(run).encode())
    output.put("_run/config.yaml", resolved_yaml(config).encode())
    entries = [asdict(shard) for shard in expand_shards(config.input.shards)]
    output.put(INPUTS_FILE, json.dumps(entries).encode())
    return output


def _edit(number: int, size: int) -> dict[str, Any]:
    """A staged row, with the encoded input image as "_before"."""
    drawn = np.random.default_rng(number)
    sample = number // EDITS_OF_IMAGE
    animal, other = ANIMALS[sample % 10], ANIMALS[(sample + 1 + number % 4) % 10]
    place = PLACES[sample % 6]
    before = encode(textured(sample, size), "jpg", quality=90)
    row: dict[str, Any] = {
        "key": f"{animal}-{sample:06d}",
        "edit_index": number % EDITS_OF_IMAGE,
        "status": ("failed", "unchanged")[number % 20] if number % 20 < 2 else "edited",
        "notes": [],
        "caption": f"a {animal} {place}",
        "edit_text": f"a {other} {place}",
        "source_sha256": hashlib.sha256(before).hexdigest(),
        "source_width": size,
        "source_height": size,
        **{f"num_evals_{stage}": 10 for stage in ("mask", "encode", "decode")},
        "method": "diffedit",
        "settings": "{}",
        "model": "bundled",
        "model_revision": "r1",
        "seed": 0,
        "fingerprint": "f00d",
        "mask_area": float(drawn.beta(2, 6)),
        "members": [],
        "_before": before,
    }
    if row["status"] == "failed":
        kind = ("CudaError", "BadSettings")[number // 20 % 2]
        row |= {"stage": "decode", "error": kind, "message": "the device went away"}
    elif row["status"] == "unchanged":
        row |= {"stage": "mask"}
    else:
        _finish(row, number, size, drawn)
    return row


def _finish(row: dict[str, Any], number: int, size: int, drawn: np.random.Generator) -> None:
    """Adds members and scores to an edited row. The edit is a disc of one color."""
    radius = size * float(np.sqrt(row["mask_area"] / np.pi))
    x, y = drawn.uniform(radius, max(size - radius, radius + 1), 2)
    disc = (x - radius, y - radius, x + radius, y + radius)
    after = Image.fromarray(textured(number // EDITS_OF_IMAGE, size))
    ImageDraw.Draw(after).ellipse(disc, fill=tuple(drawn.integers(0, 256, 3).tolist()))
    mask = Image.new("L", (size, size))
    ImageDraw.Draw(mask).ellipse(disc, fill=255)
    encoded = encode(np.asarray(after), "jpg", quality=90)
    known = ("key", "edit_index", "caption", "edit_text", "source_width", "source_height")
    record = {name: row[name] for name in known} | {"width": size, "height": size}
    provenance = json.dumps(record | {"image_sha256": hashlib.sha256(encoded).hexdigest()})
    members = {
        "jpg": encoded,
        "mask.png": encode(np.asarray(mask)),
        "txt": row["edit_text"].encode(),
        "json": provenance.encode(),
    }
    row |= {
        "output_key": output_key(row["key"], row["edit_index"]),
        "image_sha256": hashlib.sha256(encoded).hexdigest(),
        "width": size,
        "height": size,
        "score_background_psnr_db": float(drawn.normal(30, 3)),
        "score_edit_rms": float(drawn.gamma(4, 0.05)),
        "members": [{"suffix": name, "data": data} for name, data in sorted(members.items())],
    }


def textured(seed: int, size: int) -> np.ndarray:
    """(size, size, 3) uint8: noise in octaves, which compresses about like a photograph."""
    drawn = np.random.default_rng(seed)
    total = np.zeros((size, size, 3), np.float32)
    for cells, strength in ((4, 90.0), (16, 40.0), (64, 16.0)):
        noise = drawn.normal(0, 1, (cells, cells, 3)).astype(np.float32)
        for channel in range(3):
            wide = Image.fromarray(noise[..., channel]).resize(
                (size, size), Image.Resampling.BICUBIC
            )
            total[..., channel] += strength * np.asarray(wide)
    return (total + 128).clip(0, 255).astype(np.uint8)


def _publish(
    folder: Path,
    output: Store,
    shard: str,
    rows: list[dict[str, Any]],
    change: Change | None,
    filtering: Filtering,
) -> None:
    """Writes the input tar of the rows, stages the rows as one part, and publishes the shard."""
    samples: dict[str, dict[str, Any]] = {}
    for row in rows:
        row["shard"] = shard
        sample = samples.setdefault(
            row["key"],
            {"__key__": row["key"], "jpg": row["_before"], "txt": row["caption"], "edit.txt": ""},
        )
        sample["edit.txt"] += row["edit_text"] + "\n"
        if change is not None:
            change(row)
        sample |= row.pop("_files", {})
        del row["_before"]
    write_shard(folder / f"in/{shard}.tar", samples.values())
    part = Part(shard, 0, 1, hosts=["here"], device="cpu", seconds=SECONDS)
    header = replace(part.header("f00d"), num_rows=len(rows))
    table = with_header(pa.Table.from_pylist(rows, schema=STAGED_SCHEMA), header)
    output.put_if_absent(StagedPart(shard, 0, 1).name, to_ipc(table))
    assert publish_if_complete(output, shard, filtering) is not None
