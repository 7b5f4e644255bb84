"""The shapes of COCO's annotations as one mask of classes: ``key.seg.png``."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

MAX_PIXELS = 100_000_000
MAX_CLASS = 2**16 - 1  # of 16 bits a pixel


def class_mask(boxes: dict[str, Any]) -> bytes | None:
    """A PNG of the image's size whose values are categories; smaller shapes lie on larger ones.

    Args:
        boxes: ``key.boxes.json``.

    Returns:
        The file, with 8 bits a pixel if all categories fit, else 16; None if there is no shape, or
        one that cannot be drawn.
    """
    width, height = boxes.get("width"), boxes.get("height")
    if not isinstance(width, int) or not isinstance(height, int):
        return None
    if not 0 < width * height <= MAX_PIXELS or min(width, height) < 1:
        return None
    shapes = [
        (number, shape)
        for one in sorted(boxes["annotations"], key=_area, reverse=True)
        if isinstance(number := one.get("category_id"), int) and (shape := one.get("segmentation"))
    ]
    if not shapes or not all(0 <= number <= MAX_CLASS for number, _ in shapes):
        return None
    values = np.zeros((height, width), np.uint16)
    try:
        for number, shape in shapes:
            values[_drawn(shape, width, height)] = number
    except (ValueError, TypeError, KeyError, IndexError, OverflowError):
        return None
    narrow = max(number for number, _ in shapes) <= 255
    sink = io.BytesIO()
    Image.fromarray(values.astype(np.uint8) if narrow else values).save(sink, "PNG")
    return sink.getvalue()


def _area(annotation: dict[str, Any]) -> float:
    area = annotation.get("area")
    return float(area) if isinstance(area, int | float) else 0.0


def _drawn(shape: Any, width: int, height: int) -> np.ndarray:
    """(height, width) bool: where a shape is, polygons or run lengths.

    Raises:
        ValueError, TypeError, KeyError, IndexError, OverflowError: it is neither.
    """
    if isinstance(shape, dict):
        return _run_lengths(shape["counts"], shape["size"], width, height)
    image = Image.new("L", (width, height))
    draw = ImageDraw.Draw(image)
    for points in shape:
        pairs = list(zip(points[::2], points[1::2], strict=True))
        if len(pairs) > 2:
            draw.polygon(pairs, fill=1)
    return np.asarray(image) > 0


def _run_lengths(counts: Any, size: Any, width: int, height: int) -> np.ndarray:
    """Runs of 0 and 1 in turn, down the columns."""
    runs = _decoded(counts) if isinstance(counts, str) else counts
    if list(size) != [height, width] or sum(runs) != width * height or min(runs) < 0:
        raise ValueError("the runs are not of the image's size")
    values = np.repeat(np.arange(len(runs)) % 2 == 1, runs)
    return values.reshape((width, height)).T


def _decoded(text: str) -> list[int]:
    """COCO's text of run lengths: digits of 5 bits, and from the third run on the differences.

    Source: cocodataset/cocoapi, common/maskApi.c, rleFrString.
    """
    runs: list[int] = []
    value, place = 0, 0
    for character in text:
        digit = ord(character) - 48
        value |= (digit & 0x1F) << place
        place += 5
        if digit & 0x20:
            continue
        if digit & 0x10:
            value -= 1 << place
        runs.append(value + (runs[-2] if len(runs) > 2 else 0))
        value, place = 0, 0
    return runs
