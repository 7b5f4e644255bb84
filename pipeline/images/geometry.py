"""Maps between original, model's image and written image, in whole pixels, so that all agree.

Boxes are (left, top, right, bottom) in pixels, after EXIF rotation; right and bottom are outside.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from pipeline.config.buckets import Resize, Size, resize_of
from pipeline.config.model import Model

Box = tuple[int, int, int, int]
FloatBox = tuple[float, float, float, float]
Resolution = Literal["model", "source"]


@dataclass(frozen=True)
class Placement:
    """Where an original lies in the model's image. It can be inverted.

    Attributes:
        source: size of the original.
        model: size of the model's image.
        shown: the box of the original that the model sees.
        target: the box of the model's image that shows it; padding is around it.
    """

    source: Size
    model: Size
    shown: Box
    target: Box

    @property
    def scale(self) -> tuple[float, float]:
        """Pixels of the model's image for a pixel of the original: across, down."""
        (left, top, right, bottom), (to_left, to_top, to_right, to_bottom) = self.shown, self.target
        return (to_right - to_left) / (right - left), (to_bottom - to_top) / (bottom - top)

    @property
    def cut(self) -> tuple[bool, bool, bool, bool]:
        """Whether the original goes on beyond the left, top, right, bottom of what is shown."""
        left, top, right, bottom = self.shown
        return left > 0, top > 0, right < self.source[0], bottom < self.source[1]

    def to_model(self, box: FloatBox) -> FloatBox:
        """A box of the original in pixels of the model's image, not clipped to it."""
        (x, y), (to_x, to_y), (across, down) = self.shown[:2], self.target[:2], self.scale
        left, top, right, bottom = box
        return (
            to_x + (left - x) * across,
            to_y + (top - y) * down,
            to_x + (right - x) * across,
            to_y + (bottom - y) * down,
        )

    def to_source(self, box: FloatBox) -> FloatBox:
        """The inverse of ``to_model``."""
        (x, y), (to_x, to_y), (across, down) = self.shown[:2], self.target[:2], self.scale
        left, top, right, bottom = box
        return (
            x + (left - to_x) / across,
            y + (top - to_y) / down,
            x + (right - to_x) / across,
            y + (bottom - to_y) / down,
        )

    def seen(self, box: FloatBox) -> FloatBox | None:
        """What the model sees of a box of the original; None: nothing."""
        left, top = (max(*sides) for sides in zip(box[:2], self.shown[:2], strict=True))
        right, bottom = (min(*sides) for sides in zip(box[2:], self.shown[2:], strict=True))
        return (left, top, right, bottom) if left < right and top < bottom else None

    def written(self, resolution: Resolution) -> Size:
        """The size of the written image, by ``output.resolution``."""
        return self.source if resolution == "source" else self.model

    def to_written(self, box: FloatBox, resolution: Resolution) -> FloatBox | None:
        """A box of the original in pixels of the written image.

        Args:
            box: of a label, for example.
            resolution: ``output.resolution``. "source": the written image is the original with an
                edited region, so the box stays as it is. "model": it is the model's image, so the
                box is clipped to what the model sees.

        Returns:
            The box; None if nothing of it is in the written image.
        """
        if resolution == "source":
            return box
        seen = self.seen(box)
        return None if seen is None else self.to_model(seen)


def placement_of(model: Model, source: Size, size: Size) -> Placement:
    """The placement of an edit, as it was computed.

    Args:
        model: the run's settings.
        source: ``source_width`` and ``source_height`` of the row.
        size: ``model_width`` and ``model_height`` of the row.
    """
    return place(source, size, resize_of(model.buckets, model.resize, source))


def place(source: Size, model: Size, resize: Resize) -> Placement:
    """Places an original in a model's image of a given size.

    Args:
        source: size of the original, after EXIF rotation.
        model: size of the model's image.
        resize: crop (the largest centered box of the model's shape), pad (the whole original,
            centered, in its own shape) or stretch (the whole original, in the model's shape).
    """
    (width, height), (model_width, model_height) = source, model
    whole, target = (0, 0, width, height), (0, 0, model_width, model_height)
    if resize == "stretch":
        return Placement(source, model, whole, target)
    is_wider = width * model_height > height * model_width
    if resize == "crop":
        if is_wider:
            inner = max(1, round(height * model_width / model_height)), height
        else:
            inner = width, max(1, round(width * model_height / model_width))
        return Placement(source, model, _centered(inner, source), target)
    if is_wider:
        inner = model_width, max(1, round(height * model_width / width))
    else:
        inner = max(1, round(width * model_height / height)), model_height
    return Placement(source, model, whole, _centered(inner, model))


def _centered(inner: Size, outer: Size) -> Box:
    left, top = ((outer[axis] - inner[axis]) // 2 for axis in (0, 1))
    return left, top, left + inner[0], top + inner[1]
