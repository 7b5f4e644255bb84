"""Files as trainers read them from folders: imagefolder, COCO and YOLO.

    imagefolder    train/CLASS/SHARD/KEY.jpg, without a class train/SHARD%2FKEY.jpg
                   train/metadata.jsonl
    coco           train/SHARD/KEY.jpg
                   annotations/instances_train.json, annotations/captions_train.json
    yolo           images/train/SHARD/KEY.jpg, labels/train/SHARD/KEY.txt
                   data.yaml

A shard's files of a split are listed on its page, ``_mix/pages/train/SHARD.json``, with what the
files of the whole mix (``totals.py``) say of them.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

from pipeline.mix.samples import MixedSample
from pipeline.mix.survey import MixError
from pipeline.storage.content import Span, sha256_of

TREES = ("imagefolder", "coco", "yolo")
PAGES = "_mix/pages/"
MAX_CATEGORY = 10_000  # YOLO's lists of names have no gaps

Entry = dict[str, Any]  # of a sample on a page


@dataclass(frozen=True)
class Page:
    """A shard's files of a split."""

    files: list[tuple[str, int, str]]  # name, size in bytes, sha256
    entries: list[Entry]

    def to_bytes(self) -> bytes:
        tree = {"files": self.files, "entries": self.entries}
        return json.dumps(tree, ensure_ascii=True).encode() + b"\n"

    @classmethod
    def from_bytes(cls, data: bytes) -> Page:
        """Raises ValueError, TypeError or KeyError for what is no page."""
        tree = json.loads(data)
        return cls([(name, size, digest) for name, size, digest in tree["files"]], tree["entries"])


def page_name(split: str, shard: str) -> str:
    return f"{PAGES}{split}/{shard}.json"


def tree_objects(
    form: str, split: str, shard: str, samples: Sequence[MixedSample], label_member: str
) -> dict[str, bytes | Span]:
    """The files of a shard in a split, and their page as the last.

    Raises:
        MixError: a class is no name of a folder, or a category none of YOLO's.
    """
    files: dict[str, bytes | Span] = {}
    entries = []
    for sample in samples:
        label = sample.label(label_member)
        folder = _folder(form, split, shard, label)
        name = f"{folder}/{sample.key}.{sample.suffix}"
        if form == "imagefolder" and label is None:  # else its folder would be taken for a class
            name = f"{split}/{quote(f'{shard}/{sample.key}', safe='')}.{sample.suffix}"
        files[name] = sample.image
        if form == "yolo":
            files[f"labels/{folder.removeprefix('images/')}/{sample.key}.txt"] = _yolo(sample)
        width, height = sample.size
        entries.append(
            {
                "file_name": name,
                "width": width,
                "height": height,
                "text": sample.text,
                "label": label,
                "boxes": sample.boxes,
                "mix": sample.record,
            }
        )
    listed = [(name, len(data), sha256_of(bytes(data))) for name, data in files.items()]
    return files | {page_name(split, shard): Page(listed, entries).to_bytes()}


def _folder(form: str, split: str, shard: str, label: str | None) -> str:
    if form == "yolo":
        return f"images/{split}/{shard}"
    if form == "coco" or label is None:
        return f"{split}/{shard}"
    if not label or label in (".", "..") or set(label) & set("/\\\0"):
        raise MixError(f"the class {label!r} is no name of a folder; format=imagefolder needs one")
    return f"{split}/{label}/{shard}"


def _yolo(sample: MixedSample) -> bytes:
    """A label file: class, and center x, center y, width, height as shares of the image."""
    assert sample.boxes is not None, "an image without boxes is left out"
    width, height = sample.size
    lines = []
    for box in sample.boxes["annotations"]:
        number = box.get("category_id")
        if not isinstance(number, int) or not 0 <= number <= MAX_CATEGORY:
            raise MixError(
                f"{sample.key}: category_id={number!r}: format=yolo needs numbers from 0 to "
                f"{MAX_CATEGORY}"
            )
        if box.get("iscrowd"):
            continue
        left, top, box_width, box_height = box["bbox"]
        place = (
            (left + box_width / 2) / width,
            (top + box_height / 2) / height,
            box_width / width,
            box_height / height,
        )
        lines.append(" ".join([str(number), *(f"{min(max(side, 0), 1):.6f}" for side in place)]))
    return "".join(f"{line}\n" for line in lines).encode()
