"""Boxes in COCO's terms: checked, and moved with their image. Boxes are in pixels."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np

from pipeline.images.geometry import Box, FloatBox, Placement, Resolution
from pipeline.images.geometry import place as placed
from pipeline.steps.texts import SampleError, parse_json

DIGITS = 3  # of a pixel
MAX_ID = 2**31  # of a category
MAX_PIXELS = 1e9  # of a coordinate; also false for NaN and infinite numbers
# Names of shapes that are moved on their own, or left out: run lengths and key points.
SHAPES = ("bbox", "area", "segmentation", "keypoints", "num_keypoints")
Annotation = dict[str, Any]


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
        tree["annotations"] = [moved(one, scaled) or one | nowhere for one in annotations]
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


def moved(annotation: Annotation, place: Place) -> Annotation | None:
    """An annotation in the written image; None if nothing of its box is visible."""
    x, y, width, height = annotation["bbox"]
    box = place.of_box((x, y, x + width, y + height))
    if box is None or not place.moves:
        return None if box is None else annotation
    new = {name: value for name, value in annotation.items() if name not in SHAPES}
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


def share_covered(box: list[float], inside: np.ndarray) -> float:
    """The share of the pixels that a box touches which are inside of the mask."""
    height, width = inside.shape
    left, top = (max(0, math.floor(side)) for side in box[:2])
    right = min(width, max(left + 1, math.ceil(box[0] + box[2])))
    bottom = min(height, max(top + 1, math.ceil(box[1] + box[3])))
    pixels = inside[top:bottom, left:right]
    return float(pixels.mean()) if pixels.size else 0.0
