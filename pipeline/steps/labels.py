"""Labels follow the image: boxes and masks of a sample, in pixels of the written image.

Each box says which share of it the edit mask covers, and keeps, loses or changes its class.
"""

from __future__ import annotations

import io
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from PIL import Image

from pipeline.config.input import Input
from pipeline.config.labels import Labels
from pipeline.images.errors import ImageError, as_image_errors
from pipeline.steps.boxes import Place, boxes_of, moved, share_covered
from pipeline.steps.texts import SampleError, whole_word


@dataclass
class Followed:
    """The labels of an edit.

    Attributes:
        members: files by suffix, in place of the sample's.
        covered: of each box in its order, the share of it that the edit mask covers: 0 is
            untouched, None is outside of the written image. None if the sample has no boxes.
        notes: on what was left out.
    """

    members: dict[str, bytes] = field(default_factory=dict)
    covered: list[float | None] | None = None
    notes: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Texts:
    """What the sample shows, and what the edit asks for."""

    caption: str
    edit_text: str


def follow(
    extras: Mapping[str, bytes],
    *,
    texts: Texts,
    place: Place,
    inside: np.ndarray,
    read: Input,
    labels: Labels,
) -> Followed:
    """The sample's further files, with its labels as they are in the written image.

    Args:
        extras: files of the sample that are passed through, by suffix.
        texts: of the edit.
        place: of the original in the written image.
        inside: (H, W) bool, the edit mask at the written image's pixels.
        read: which files are labels.
        labels: what becomes of covered boxes.
    """
    found = Followed(dict(extras))
    for suffix in (read.boxes.lower(), *(name.lower() for name in read.class_masks)):
        data = found.members.pop(suffix, None)
        if data is None:
            continue
        try:
            if suffix == read.boxes.lower():
                tree = boxes_of(data, place.placement.source)
                _move(tree, place, inside, found)
                _judge(tree, texts, labels, found)
                found.members[suffix] = json.dumps(tree, ensure_ascii=True).encode()
            else:
                found.members[suffix] = _mask(data, place, inside.shape)
        except (SampleError, ImageError) as error:
            found.notes.append(f"the labels .{suffix} were left out: {error.message}")
            if suffix == read.boxes.lower():
                found.covered = None
    return found


def _move(tree: dict[str, Any], place: Place, inside: np.ndarray, found: Followed) -> None:
    """Boxes into the written image, each with the share of it that the mask covers."""
    visible, found.covered = [], []
    for annotation in tree["annotations"]:
        new = moved(annotation, place)
        if new is None:
            found.covered.append(None)
            continue
        share = round(share_covered(new["bbox"], inside), 6)
        found.covered.append(share)
        visible.append(new | {"covered": share})
    tree["annotations"] = visible
    tree["height"], tree["width"] = inside.shape


def _judge(tree: dict[str, Any], texts: Texts, labels: Labels, found: Followed) -> None:
    """Applies ``labels.on_overlap`` to the boxes that the mask covers."""
    if labels.on_overlap == "keep":
        return
    new, gone = _changed_classes(texts, labels.classes)
    kept, dropped, relabeled = [], 0, 0
    for box in tree["annotations"]:
        covered = box["covered"] >= max(labels.min_cover, 1e-9)
        is_other = labels.on_overlap == "relabel" and gone and box.get("category_id") not in gone
        if not covered or is_other:
            kept.append(box)
        elif labels.on_overlap == "drop" or new is None:
            dropped += 1
        else:
            kept.append(box | {"category_id": new})
            relabeled += 1
    tree["annotations"] = kept
    if relabeled:
        _name_category(tree["categories"], new, labels.classes)
    if dropped:
        found.notes.append(f"{dropped} boxes were left out: the edit mask covers them")
    if relabeled:
        found.notes.append(f"{relabeled} boxes have the class of the edit text")


def _changed_classes(texts: Texts, classes: Mapping[str, int]) -> tuple[int | None, set[int]]:
    """The class that only the edit text names, if it is one; and those that only the caption does.

    Where it names no new one, its only class is taken: the caption may be a general one.
    """
    before, after = (
        {number for word, number in classes.items() if whole_word(word).search(text)}
        for text in (texts.caption, texts.edit_text)
    )
    candidates = after - before or after
    return (candidates.pop() if len(candidates) == 1 else None), before - after


def _name_category(
    categories: list[dict[str, Any]], number: int | None, classes: Mapping[str, int]
) -> None:
    if all(one.get("id") != number for one in categories):
        name = next(word for word, known in classes.items() if known == number)
        categories.append({"id": number, "name": name})


def _mask(data: bytes, place: Place, shape: tuple[int, ...]) -> bytes:
    """A mask of classes in the written image, each pixel with the value of the nearest one.

    Raises:
        ImageError: it cannot be read, or has another size than the image.
    """
    size = place.placement.source
    with as_image_errors(data, ["PNG"]):
        image = Image.open(io.BytesIO(data), formats=["PNG"])
        if image.size != size:
            raise ImageError(
                "BadMask",
                f"the mask has {image.width} x {image.height} pixels, and the image, as seen, "
                f"{size[0]} x {size[1]}",
            )
        if not place.moves:
            return data
        image.load()
    left, top, right, bottom = place.region
    shown = image.crop(place.placement.shown).resize(
        (right - left, bottom - top), Image.Resampling.NEAREST
    )
    written = Image.new(image.mode, (shape[1], shape[0]))
    if image.mode == "P":
        written.putpalette(image.getpalette() or [])
    written.paste(shown, (left, top))
    sink = io.BytesIO()
    written.save(sink, "PNG")
    return sink.getvalue()
