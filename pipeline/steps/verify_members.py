"""The audit of a published tar against the rows of its shard."""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Iterator
from typing import Any

import numpy as np
from PIL import Image

from pipeline.records.part import Status
from pipeline.storage.archive import read_members

IMAGES = ("jpg", "png", "webp")


def check_members(tar: bytes, rows: list[dict[str, Any]] | None, status: Status) -> Iterator[str]:
    """The problems of a tar: every row of a status has its members there, and there are no others.

    Args:
        tar: of the edited images, or of the rejected ones.
        rows: of the shard; None where they cannot be read, and only the tar itself is checked.
        status: of the rows whose members the tar holds.
    """
    members, problem = read_members(tar)
    if problem:
        yield f"the tar is {problem}"
    samples: dict[str, dict[str, bytes]] = {}
    for name, data in members:
        key, _, suffix = name.partition(".")
        if suffix in samples.setdefault(key, {}):
            yield f"the member {name} is there twice"
        samples[key][suffix] = data
    if rows is None:
        return
    for row in rows:
        if row["status"] != status:
            continue
        sample = samples.pop(row["output_key"], None)
        if sample is None:
            yield f"{row['output_key']}: the row is {status} and has no members in its tar"
        else:
            yield from (f"{row['output_key']}: {line}" for line in _check_sample(sample, row))
    for key in samples:
        yield f"{key}: members in the tar of {status} images without such a row"


def _check_sample(sample: dict[str, bytes], row: dict[str, Any]) -> Iterator[str]:
    shape = (row["height"], row["width"])
    digests = {
        suffix: hashlib.sha256(sample[suffix]).hexdigest() for suffix in IMAGES if suffix in sample
    }
    images = [suffix for suffix, digest in digests.items() if digest == row["image_sha256"]]
    if not images:
        yield "no image with the row's sha256"
    elif _decoded_shape(sample[images[0]]) != (*shape, 3):
        yield f"the image does not decode to {shape[1]} x {shape[0]} pixels"
    if sample.get("txt") != (row["edit_text"] or "").encode():
        yield "the member .txt is missing or is not the row's edit text"
    if "mask.png" not in sample or _decoded_shape(sample["mask.png"]) != shape:
        yield "the member .mask.png is missing or has another size than the image"
    try:
        record = json.loads(sample["json"])
        same = all(record[name] == row[name] for name in ("key", "edit_index", "image_sha256"))
    except (KeyError, ValueError, TypeError):
        same = False
    if not same:
        yield "the member .json is missing or is not of this row"


def _decoded_shape(data: bytes) -> tuple[int, ...] | None:
    """The shape of an image's pixels; None if it does not decode."""
    try:
        with Image.open(io.BytesIO(data)) as image:
            return np.asarray(image).shape
    except Exception:  # noqa: BLE001 - whatever a decoder raises on damaged bytes, it is damaged
        return None
