"""The audit of a published tar: compares its members with the rows of its shard."""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Iterator

import numpy as np
from PIL import Image

from pipeline.records.part import Status
from pipeline.records.rows import Row
from pipeline.storage.archive import find_members
from pipeline.storage.content import Content, Span

IMAGES = ("jpg", "png", "webp")
CHECKED = (*IMAGES, "txt", "mask.png", "json")  # suffixes of an edit's files


def check_members(tar: Content, rows: list[Row] | None, status: Status) -> Iterator[str]:
    """The problems of a tar, which must hold the members of every row with ``status``, and no more.

    One sample at a time is in memory.

    Args:
        tar: the tar of edited images, or that of rejected ones.
        rows: of the shard; None if they cannot be read: then only the tar itself is checked.
        status: of the rows whose members the tar holds.
    """
    members, problem = find_members(tar)
    if problem:
        yield f"the tar is {problem}"
    samples: dict[str, dict[str, Span]] = {}
    for name, data in members:
        key, _, suffix = name.partition(".")
        if suffix in samples.setdefault(key, {}):
            yield f"the member {name} exists twice"
        samples[key][suffix] = data
    if rows is None:
        return
    for row in rows:
        if row.status != status:
            continue
        sample = samples.pop(row.output_key or "", None)
        if sample is None:
            yield f"{row.output_key}: the row is {status}, but has no members in its tar"
        else:
            yield from (f"{row.output_key}: {line}" for line in _check_sample(sample, row))
    for key in samples:
        yield f"{key}: members in the tar of {status} images, but no such row"


def _check_sample(files: dict[str, Span], row: Row) -> Iterator[str]:
    sample = {suffix: bytes(files[suffix]) for suffix in CHECKED if suffix in files}
    shape = (row.height, row.width)
    digests = {
        suffix: hashlib.sha256(sample[suffix]).hexdigest() for suffix in IMAGES if suffix in sample
    }
    images = [suffix for suffix, digest in digests.items() if digest == row.image_sha256]
    if not images:
        yield "no image with the row's sha256"
    elif _decoded_shape(sample[images[0]]) != (*shape, 3):
        yield f"the image does not decode to {shape[1]} x {shape[0]} pixels"
    if sample.get("txt") != (row.edit_text or "").encode():
        yield "the member .txt is missing or is not the row's edit text"
    if "mask.png" not in sample or _decoded_shape(sample["mask.png"]) != shape:
        yield "the member .mask.png is missing or has another size than the image"
    try:
        record = json.loads(sample["json"])
        same = all(
            record[name] == getattr(row, name) for name in ("key", "edit_index", "image_sha256")
        )
    except (KeyError, ValueError, TypeError):
        same = False
    if not same:
        yield "the member .json is missing or belongs to another row"


def _decoded_shape(data: bytes) -> tuple[int, ...] | None:
    """The shape of an image's pixels; None if it does not decode."""
    try:
        with Image.open(io.BytesIO(data)) as image:
            return np.asarray(image).shape
    except Exception:  # noqa: BLE001 - decoders raise errors of any type on damaged bytes
        return None
