"""Where a box of the original lies in the written image, in fractions of pixels."""

from __future__ import annotations

from dataclasses import dataclass

from pipeline.images.geometry import Box, fit


@dataclass(frozen=True)
class Placement:
    """A box of the original that is shown in a box of the written image.

    Attributes:
        source: in pixels of the original, after EXIF rotation.
        target: in pixels of the written image.
    """

    source: Box
    target: Box

    @classmethod
    def of(cls, width: int, height: int, *, size: int, resize: str, resolution: str) -> Placement:
        """That of a run.

        Args:
            width: of the original in pixels.
            height: same.
            size: side of the model's image in pixels.
            resize: ``model.resize``.
            resolution: ``output.resolution``: with "source" nothing moves.
        """
        if resolution == "source":
            return cls((0, 0, width, height), (0, 0, width, height))
        return cls(*fit(width, height, size=size, resize=resize))

    @property
    def is_identity(self) -> bool:
        return self.source == self.target

    @property
    def scale(self) -> tuple[float, float]:
        """Pixels of the written image for one of the original, in x and y."""
        left, top, right, bottom = self.source
        to_left, to_top, to_right, to_bottom = self.target
        return (to_right - to_left) / (right - left), (to_bottom - to_top) / (bottom - top)

    def point(self, x: float, y: float) -> tuple[float, float]:
        """Where a point of the original lies; it may lie outside of ``target``."""
        (scale_x, scale_y), (left, top), (to_left, to_top) = (
            self.scale,
            self.source[:2],
            self.target[:2],
        )
        return (x - left) * scale_x + to_left, (y - top) * scale_y + to_top

    def box(
        self, x: float, y: float, width: float, height: float
    ) -> tuple[float, float, float, float] | None:
        """The visible part of a box, as x, y, width, height; None if nothing of it is visible."""
        left, top = self.clipped(*self.point(x, y))
        right, bottom = self.clipped(*self.point(x + width, y + height))
        if right <= left or bottom <= top:
            return None
        return left, top, right - left, bottom - top

    def clipped(self, x: float, y: float) -> tuple[float, float]:
        """The nearest point inside of ``target``."""
        left, top, right, bottom = self.target
        return min(max(x, left), right), min(max(y, top), bottom)
