"""Labels follow the image: boxes and masks of a sample, in pixels of the written image.

Each box says which share of it the edit mask covers, and keeps, loses or changes its class.
"""

from __future__ import annotations

import io
import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from PIL import Image

from pipeline.config.input import Input
from pipeline.config.labels import Labels
from pipeline.images.errors import ImageError, as_image_errors
from pipeline.images.geometry import Box, FloatBox, Placement, Resolution
from pipeline.images.geometry import place as placed
from pipeline.steps.texts import SampleError, parse_json, whole_word

DIGITS = 3  # of a pixel
MAX_ID = 2**31  # of a category
MAX_PIXELS = 1e9  # of a coordinate; also false for NaN and infinite numbers
Annotation = dict[str, Any]


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


@dataclass(frozen=True)
class Place:
    """Where the original lies in the written image, by ``output.resolution``."""

    placement: Placement
    resolution: Resolution

    @property
    def moves(self) -> bool:
        """Whether a pixel of the original may have other coordinates in the written image."""
        same = self.placement.shown == self.placement.target
        return self.resolution == "model" and not same

    @property
    def region(self) -> Box:
        """The box of the written image that shows the original."""
        if self.resolution == "source":
            return (0, 0, *self.placement.source)
        return self.placement.target

    def of_box(self, box: FloatBox) -> FloatBox | None:
        """What is visible of a box; None: nothing."""
        return self.placement.to_written(box, self.resolution)

    def of_point(self, x: float, y: float) -> tuple[float, float]:
        """A point, put inside of ``region``."""
        if self.resolution == "model":
            x, y = self.placement.to_model((x, y, x, y))[:2]
        left, top, right, bottom = self.region
        return min(max(x, left), right), min(max(y, top), bottom)


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


def boxes_of(data: bytes, size: tuple[int, int]) -> dict[str, Any]:
    """The boxes in pixels of the original.

    Raises:
        SampleError: the file is not in COCO's terms, or is of an image of another shape.
    """
    tree, _ = parse_json(data)
    annotations = tree.get("annotations")
    if not isinstance(annotations, list) or not all(map(_is_box, annotations)):
        raise SampleError(
            "BadBoxes",
            "annotations must list boxes: each a bbox of four numbers, and a number as category_id",
        )
    categories = tree.setdefault("categories", [])
    if not isinstance(categories, list) or not all(map(_is_category, categories)):
        raise SampleError("BadBoxes", "categories must list objects with id, a number, and name")
    said = (tree.get("width"), tree.get("height"))
    if said not in ((None, None), size):
        scaled = Place(placed(_sizes(said, size), size, "stretch"), "model")
        nowhere = {"bbox": [0, 0, 0, 0]}
        tree["annotations"] = [_moved(one, scaled) or one | nowhere for one in annotations]
    return tree


def _sizes(said: tuple[Any, Any], size: tuple[int, int]) -> tuple[int, int]:
    """The size that the boxes are for, if it has the image's shape up to rounding by a pixel."""
    width, height = said
    is_size = all(isinstance(side, int) and side > 0 for side in said)
    if not is_size or abs(width * size[1] - height * size[0]) > max(*said, *size):
        raise SampleError(
            "BadBoxes",
            f"they are of an image of {width} x {height} pixels, and the image, as seen, has "
            f"{size[0]} x {size[1]}",
        )
    return width, height


def _is_box(annotation: Any) -> bool:
    if not isinstance(annotation, dict):
        return False
    box, number = annotation.get("bbox"), annotation.get("category_id")
    is_place = isinstance(box, list) and len(box) == 4 and _is_numbers(box) and min(box[2:]) >= 0
    return is_place and (number is None or _is_id(number))


def _is_category(category: Any) -> bool:
    return (
        isinstance(category, dict)
        and _is_id(category.get("id"))
        and isinstance(category.get("name"), str)
    )


def _is_id(number: Any) -> bool:
    return isinstance(number, int) and not isinstance(number, bool) and abs(number) < MAX_ID


def _move(tree: dict[str, Any], place: Place, inside: np.ndarray, found: Followed) -> None:
    """Boxes into the written image, each with the share of it that the mask covers."""
    moved, found.covered = [], []
    for annotation in tree["annotations"]:
        new = _moved(annotation, place)
        if new is None:
            found.covered.append(None)
            continue
        share = round(_cover(new["bbox"], inside), 6)
        found.covered.append(share)
        moved.append(new | {"covered": share})
    tree["annotations"] = moved
    tree["height"], tree["width"] = inside.shape


def _moved(annotation: Annotation, place: Place) -> Annotation | None:
    """An annotation in the written image; None if nothing of its box is visible."""
    x, y, width, height = annotation["bbox"]
    box = place.of_box((x, y, x + width, y + height))
    if box is None or not place.moves:
        return None if box is None else annotation
    new = {name: value for name, value in annotation.items() if name not in _SHAPES}
    left, top, right, bottom = box
    new["bbox"] = _rounded([left, top, right - left, bottom - top])
    area = annotation.get("area")
    if _is_numbers([area]) and width * height:
        share = (right - left) * (bottom - top) / (width * height)
        new["area"] = round(area * share, DIGITS)
    polygons = annotation.get("segmentation")
    if isinstance(polygons, list) and all(map(_is_numbers, polygons)):
        new["segmentation"] = [_polygon(points, place) for points in polygons]
    return new


# Names of shapes that are moved on their own, or left out: run lengths and key points.
_SHAPES = ("bbox", "area", "segmentation", "keypoints", "num_keypoints")


def _is_numbers(values: Any) -> bool:
    return isinstance(values, list) and all(
        isinstance(one, int | float) and abs(one) < MAX_PIXELS for one in values
    )


def _polygon(points: list[float], place: Place) -> list[float]:
    """x, y, x, y, ... inside of the written image."""
    pairs = zip(points[::2], points[1::2], strict=False)
    return _rounded(side for x, y in pairs for side in place.of_point(x, y))


def _rounded(sides: Iterable[float]) -> list[float]:
    return [round(side, DIGITS) for side in sides]


def _cover(box: list[float], inside: np.ndarray) -> float:
    """The share of the pixels that a box touches which are inside of the mask."""
    height, width = inside.shape
    left, top = (max(0, math.floor(side)) for side in box[:2])
    right = min(width, max(left + 1, math.ceil(box[0] + box[2])))
    bottom = min(height, max(top + 1, math.ceil(box[1] + box[3])))
    pixels = inside[top:bottom, left:right]
    return float(pixels.mean()) if pixels.size else 0.0


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
