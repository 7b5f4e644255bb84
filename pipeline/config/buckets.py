"""The setting ``model.buckets``: the sizes at which images are computed."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Annotated, Any, Literal

from pydantic import Field

SMALLEST_SIDE = 8  # pixels

Size = tuple[int, int]  # width, height
Side = Annotated[int, Field(ge=SMALLEST_SIDE)]
Resize = Literal["crop", "pad", "stretch"]
Buckets = Literal["auto", "square"] | list[tuple[Side, Side]]

# Longer side over shorter side of the widest bucket. SDXL was trained on 1:4 to 4:1
# (arXiv:2307.01952, appendix I); the other models on less.
WIDEST = 4
FEWEST = 8  # steps in the side of the square; SD 1.5 has as many, of 64 pixels
MOST_SIZES = 64  # of a list


@dataclass(frozen=True)
class Sizes:
    """The sizes of a run's images, for one model.

    Attributes:
        side: of the square of the model's area, in pixels.
        step: sides of ``auto`` are multiples of it.
        longest: the longest side that the model allows.
        buckets: ``model.buckets``.
    """

    side: int
    step: int = 1
    longest: int = 2**16
    buckets: Literal["auto", "square"] | tuple[Size, ...] = "square"

    @classmethod
    def only(cls, size: Size) -> Sizes:
        """One size for all images."""
        return cls(max(size), buckets=(size,))

    def of(self, source: Size) -> Size:
        """The size at which an image is computed.

        ``auto`` takes the multiples that are nearest to the image's shape at the model's area; a
        square image gets the square. An image beyond 1:4 or 4:1 gets the size at that end. Of a
        list it is the size whose shape is nearest; of several, the one nearest in area.

        Args:
            source: size of the original.
        """
        if self.buckets == "square":
            return self.side, self.side
        if self.buckets == "auto":
            return self._of_shape(*source)
        return min(self.buckets, key=lambda size: _distance(size, source))

    @property
    def largest(self) -> float:
        """Side of a square of the largest area."""
        return math.sqrt(max(math.prod(size) for size in self.listed or [(self.side, self.side)]))

    @property
    def listed(self) -> list[Size]:
        """Every size that an image may get, if they are known beforehand; empty with ``auto``."""
        if self.buckets == "square":
            return [(self.side, self.side)]
        return [] if self.buckets == "auto" else list(self.buckets)

    def _of_shape(self, width: int, height: int) -> Size:
        shape = min(max(width, height) / min(width, height), float(WIDEST))
        most = self.longest // self.step
        shorter = max(1, round(self.side / math.sqrt(shape) / self.step))
        longer = round(shorter * shape)
        if longer > most:
            shorter, longer = max(1, round(most / shape)), most
        size = longer * self.step, shorter * self.step
        return size if width >= height else size[::-1]


def step_of(side: int, multiple: int, halvings: int) -> int:
    """The step in which the sides of ``auto`` grow, in pixels.

    It is what the network halves without remainder, so that a part has few sizes and each of its
    batches many rows. It divides ``side``, so that a square image gets just that, at least
    ``FEWEST`` times, so that other shapes have about its area.

    Args:
        side: of the square of the model's area, a multiple of ``multiple``.
        multiple: sides must be multiples of it.
        halvings: how often the network halves its grid.
    """
    step = multiple << halvings
    while step > multiple and (side % step or side < FEWEST * step):
        step //= 2
    return step


def resize_of(buckets: Buckets | Sequence[Size], resize: Resize, source: Size) -> Resize:
    """How an image is fitted to its size: as ``model.resize`` says, but for extreme shapes.

    With ``auto`` a crop takes off less than one multiple; where it would take more, the image is
    padded.

    Args:
        buckets: ``model.buckets``.
        resize: ``model.resize``.
        source: size of the original.
    """
    is_extreme = max(source) > WIDEST * min(source)
    return "pad" if buckets == "auto" and resize == "crop" and is_extreme else resize


def checked_buckets(value: Any) -> Any:
    """A list of sizes without repetition, sorted; words as they are.

    Raises:
        ValueError: it is neither, in one sentence.
    """
    if value in ("auto", "square"):
        return value
    if not isinstance(value, list | tuple) or not all(map(_is_size, value)) or not value:
        raise ValueError(
            "input should be auto, square, or a list of sizes [width, height] in pixels, of "
            f"{SMALLEST_SIDE} or more"
        )
    sizes = sorted({(width, height) for width, height in value})
    if len(sizes) > MOST_SIZES:
        raise ValueError(f"{len(sizes)} sizes; at most {MOST_SIZES} are allowed")
    return sizes


def _is_size(value: Any) -> bool:
    if not isinstance(value, list | tuple) or len(value) != 2:
        return False
    return all(
        isinstance(side, int) and not isinstance(side, bool) and side >= SMALLEST_SIDE
        for side in value
    )


def _distance(size: Size, source: Size) -> tuple[Fraction, Fraction, Size]:
    """How far a size is from an image: the factor between the shapes, then between the areas."""
    shapes = Fraction(*size), Fraction(*source)
    areas = Fraction(math.prod(size)), Fraction(math.prod(source))
    return max(shapes) / min(shapes), max(areas) / min(areas), size
