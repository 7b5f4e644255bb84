"""The second step: decodes each image once and resizes it for the model."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from PIL import Image

from pipeline.config.buckets import Resize, Size, Sizes, resize_of
from pipeline.config.config import Config
from pipeline.images.errors import ImageError
from pipeline.images.files import decode_image, decode_mask
from pipeline.images.geometry import Box, Placement, Resolution, place
from pipeline.process.heartbeat import heartbeat
from pipeline.records.part import Part, Sample
from pipeline.storage.readers import in_threads

SUFFIXES = ("jpg", "jpeg", "png", "webp")
MASK_CROPPED_NOTE = "a part of the supplied mask lies outside of the crop that the model saw"


@dataclass(frozen=True)
class Preparation:
    """How an image becomes the model's.

    Attributes:
        sizes: of the model's images.
        resize: crop (the center), pad (repeats the pixels of the edge), or stretch.
        resolution: "source" keeps the encoded image: ``finish`` decodes it again at its own size
            and composites the edit into it. "model" drops it.
        max_pixels: an image whose header declares more is not decoded.
        suffixes: their formats are decoded. The bytes decide the format, not the member's name.
    """

    sizes: Sizes
    resize: Resize
    resolution: Resolution
    max_pixels: int
    suffixes: tuple[str, ...] = SUFFIXES

    @classmethod
    def of(cls, config: Config, sizes: Sizes) -> Preparation:
        """That of a run, with the sizes of its model's images."""
        return cls(
            sizes=sizes,
            resize=config.model.resize,
            resolution=config.output.resolution,
            max_pixels=config.input.max_pixels,
            suffixes=tuple(config.input.image),
        )

    def place(self, source: Size) -> Placement:
        """Where an original of this size lies in the model's image."""
        resize = resize_of(self.sizes.buckets, self.resize, source)
        return place(source, self.sizes.of(source), resize)


def prepare(part: Part, how: Preparation, *, threads: int = 1) -> Part:
    """Decodes and resizes the images of a part. A bad image fails its edits.

    Args:
        part: as read; changed in place and returned.
        how: of the run.
        threads: images decoded at once.

    Returns:
        The part: ``image`` (H, W, 3) uint8 and, where a mask came with the sample,
        ``supplied_mask`` (H, W) uint8 with 0 in the padding.
    """

    def one(sample: Sample) -> None:
        heartbeat(sample.key)
        if not sample.pending or sample.encoded is None:
            _drop(sample)
            return
        try:
            _prepare(sample, how)
        except ImageError as error:
            sample.fail("prepare", error.kind, error.message)
            _drop(sample)
        sample.encoded_mask = None
        if how.resolution == "model":
            sample.encoded = None

    for _ in in_threads(one, part.samples, threads=threads):
        pass
    return part


def _prepare(sample: Sample, how: Preparation) -> None:
    assert sample.encoded is not None
    encoded = bytes(sample.encoded)  # it may be a range of the shard
    decoded, notes = decode_image(encoded, max_pixels=how.max_pixels, suffixes=how.suffixes)
    for edit in sample.pending:
        edit.notes += notes
    width, height = decoded.size
    sample.source_width, sample.source_height = width, height
    placement = how.place(decoded.size)
    sample.image = _placed(decoded, placement, Image.Resampling.LANCZOS)
    if sample.encoded_mask is None:
        return
    mask = decode_mask(bytes(sample.encoded_mask), max_pixels=how.max_pixels)
    if not _same_shape(mask.size, decoded.size):
        raise ImageError(
            "BadMask",
            f"the mask is {mask.width} x {mask.height} pixels and the image, as seen, "
            f"{width} x {height}: the aspect ratio differs",
        )
    if mask.size != decoded.size:  # the same shape in another resolution
        mask = mask.resize(decoded.size, Image.Resampling.BOX)
    if _reaches_beyond(mask, placement.shown):
        for edit in sample.pending:
            edit.notes.append(MASK_CROPPED_NOTE)
    sample.supplied_mask = _placed(mask, placement, Image.Resampling.BOX)


def _placed(image: Image.Image, placement: Placement, resampling: Image.Resampling) -> np.ndarray:
    """(H, W, ...): the shown box of an image, resized into the target box of the model's image.

    An image is padded with the pixels of its edge, a mask with 0 (keep).
    """
    left, top, right, bottom = placement.target
    width, height = placement.model
    # Not resize(box=...): its filter would read pixels outside of the box, which were cropped off.
    shown = image.crop(placement.shown).resize((right - left, bottom - top), resampling)
    resized = np.asarray(shown)
    margins = [(top, height - bottom), (left, width - right)]
    if resized.ndim == 2:
        return np.pad(resized, margins)
    return np.pad(resized, [*margins, (0, 0)], mode="edge")


def _reaches_beyond(mask: Image.Image, box: Box) -> bool:
    """Whether a mask is white outside of a box. A lossy mask is never quite 0."""
    left, top, right, bottom = box
    outside = np.asarray(mask) >= 128
    outside[top:bottom, left:right] = False
    return bool(outside.any())


def _same_shape(size: tuple[int, int], other: tuple[int, int]) -> bool:
    """Whether both sizes have the same aspect ratio, up to rounding by a pixel."""
    (width, height), (other_width, other_height) = size, other
    return abs(width * other_height - height * other_width) <= max(*size, *other)


def _drop(sample: Sample) -> None:
    """Drops what later steps do not need of a failed sample."""
    sample.encoded = sample.encoded_mask = sample.image = sample.supplied_mask = None
    sample.extras = {}
