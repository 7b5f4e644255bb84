"""The page's images, scaled down: before from the input, after and mask from the output."""

from __future__ import annotations

import io
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from PIL import Image

from pipeline.config.buckets import Sizes, resize_of
from pipeline.config.config import Config
from pipeline.images.errors import ImageError
from pipeline.images.files import decode_image, decode_mask
from pipeline.records.part import Part, Sample, Status
from pipeline.steps.output_keys import output_key
from pipeline.steps.prepare import Preparation, prepare
from pipeline.steps.read import read_shard
from pipeline.storage.archive import find_samples
from pipeline.storage.content import Span
from pipeline.storage.layout import REJECTED, tar_name
from pipeline.storage.readers import in_threads
from pipeline.storage.retry import StorageError
from pipeline.storage.shards import InputShard
from pipeline.storage.store import Store

WEBP_QUALITY = 80
WEBP_METHOD = 2  # 0 (fast) to 6 (small files)
MASK_SIDE = 128  # pixels
MASK_LEVELS = 4
MASK_COLOR = (255, 0, 140)
MASK_ALPHA = 150  # of 255, where the mask is 1
OUTPUT_SUFFIXES = ("jpg", "png", "webp")
THREADS = min(8, os.cpu_count() or 1)  # threads help because Pillow releases the GIL
MAX_PIXELS = 100_000_000  # of an output image
# Decoded at once, all threads together; a larger image is decoded alone. Some 8 bytes a pixel.
PIXELS_AT_ONCE = 32_000_000
# The worker that decoded these images hung or died, and this process has no watchdog.
NOT_DECODED = ("TimedOut", "PartLost")

Row = dict[str, Any]  # of the Parquet file
RowId = tuple[str, int]  # key and edit index, unique in a shard


@dataclass
class SmallImages:
    """The small images of one edit as files: WebP, and PNG for the mask. None: missing."""

    before: bytes | None = None
    after: bytes | None = None
    mask: bytes | None = None


class PixelRoom:
    """Lets threads decode images at once as long as they have so many pixels together."""

    def __init__(self, pixels: int) -> None:
        self.pixels = self.left = pixels
        self.change = threading.Condition()

    @contextmanager
    def taken(self, pixels: int) -> Iterator[None]:
        """Waits until there is room; an image that is larger than all of it takes all of it."""
        pixels = min(pixels, self.pixels)
        with self.change:
            self.change.wait_for(lambda: self.left >= pixels)
            self.left -= pixels
        try:
            yield
        finally:
            with self.change:
                self.left += pixels
                self.change.notify_all()


class ShardImages:
    """Reads the images of a shard's rows from its tar, its tar of rejected edits and its input.

    Memory is bounded by ``PIXELS_AT_ONCE`` and the files of an image for each thread. Time is
    bounded as in the run: images of more pixels or scans than allowed are not decoded, and neither
    are those with which a worker hung or died.
    """

    def __init__(
        self,
        output: Store,
        config: Config | None,
        inputs: dict[str, InputShard],
        side: int,
    ) -> None:
        """
        Args:
            output: of the run.
            config: of the run; without it the input cannot be read.
            inputs: the entries of ``_run/inputs.json``, by shard.
            side: the longer side of a small image in pixels.
        """
        self.output, self.config, self.inputs, self.side = output, config, inputs, side
        self.missing_inputs: dict[str, str] = {}  # shard -> why its input cannot be shown
        self.room = PixelRoom(PIXELS_AT_ONCE)

    def read(self, shard: str, rows: list[Row]) -> dict[RowId, SmallImages]:
        """The images of these rows of one shard, by key and edit index."""
        images = {(row["key"], row["edit_index"]): SmallImages() for row in rows}
        before = self._before(shard, rows)
        members = self._members(shard, rows)
        suffixes = OUTPUT_SUFFIXES

        def fill(row: Row) -> None:
            small = images[row["key"], row["edit_index"]]
            small.before = before.get(row["key"])
            own = members.get(output_key(row["key"], row["edit_index"]), {})
            after = next((own[suffix] for suffix in suffixes if suffix in own), None)
            mask = own.get("mask.png")
            with self.room.taken((row["width"] or 0) * (row["height"] or 0)):
                small.after = None if after is None else _small_file(bytes(after), self.side)
                small.mask = None if mask is None else _overlay(bytes(mask))

        for _ in in_threads(fill, rows, threads=THREADS):
            pass
        return images

    def _members(self, shard: str, rows: list[Row]) -> dict[str, dict[str, Span]]:
        """The members of the rows' output keys, by suffix, as ranges of their tars."""
        members: dict[str, dict[str, Span]] = {}
        for status, name in (
            (Status.EDITED, tar_name(shard)),
            (Status.REJECTED, f"{REJECTED}{tar_name(shard)}"),
        ):
            keys = {
                output_key(row["key"], row["edit_index"]) for row in rows if row["status"] == status
            }
            if not keys:
                continue
            try:
                data = self.output.open(name)
            except (FileNotFoundError, StorageError):
                continue  # for example because rejected images are not kept
            found = find_samples(data)
            members |= {key: found[key] for key in keys & found.keys()}
        return members

    def _before(self, shard: str, rows: list[Row]) -> dict[str, bytes]:
        """The images before the edit, by key; only those whose bytes are the edited ones."""
        rows = sorted(rows, key=lambda row: row["width"] is not None)  # the last row per key counts
        wanted = {
            row["key"]: row
            for row in rows
            if row["source_sha256"] is not None and row["error"] not in NOT_DECODED
        }
        if not wanted:
            return {}
        entry = self.inputs.get(shard)
        if self.config is None or entry is None:
            self.missing_inputs[shard] = "the output does not say where its input is"
            return {}
        try:  # not as_listed: the tar may have been copied. Each image's sha256 is checked below
            data, _ = entry.open(self.config.input.storage_options, as_listed=False)
        except (OSError, StorageError, ValueError, ImportError) as error:
            self.missing_inputs[shard] = type(error).__name__
            return {}
        samples = [
            sample
            for sample in read_shard(data, self.config.input, ranges=True).samples
            if sample.key in wanted
            and sample.encoded is not None
            and sample.source_sha256 == wanted[sample.key]["source_sha256"]
        ]
        if not samples:
            self.missing_inputs[shard] = "the input holds other images now"

        def small_before(sample: Sample) -> bytes | None:
            row = wanted[sample.key]
            pixels = (row["source_width"] or 0) * (row["source_height"] or 0)
            with self.room.taken(pixels or self.room.pixels):  # unknown: alone
                return self._small_before(sample, row)

        made = in_threads(small_before, samples, threads=THREADS)
        return {sample.key: small for sample, small in made if small is not None}

    def _small_before(self, sample: Sample, row: Row) -> bytes | None:
        """The input image: prepared if the output is at the model's size, else the original."""
        assert self.config is not None
        config = self.config
        as_prepared = config.output.resolution == "model" and row["width"] is not None
        if as_prepared and sample.pending:
            sample.encoded_mask = None
            how = Preparation.of(config, Sizes.only((row["width"], row["height"])))
            source = row["source_width"], row["source_height"]
            resize = resize_of(config.model.buckets, config.model.resize, source)
            prepare(Part("", 0, 1, [sample]), replace(how, resize=resize))
            if sample.image is None:
                return None
            return _small(Image.fromarray(sample.image), self.side)
        assert sample.encoded is not None
        try:
            decoded, _ = decode_image(
                bytes(sample.encoded),  # it is a range of the shard
                max_pixels=config.input.max_pixels,
                suffixes=config.input.image,
            )
        except ImageError:
            return None
        return _small(decoded, self.side)


def _small_file(data: bytes, side: int) -> bytes | None:
    try:
        decoded, _ = decode_image(data, max_pixels=MAX_PIXELS, suffixes=OUTPUT_SUFFIXES)
    except ImageError:
        return None
    return _small(decoded, side)


def _small(image: Image.Image, side: int) -> bytes:
    """A WebP file of the image, scaled down to at most ``side`` pixels on its longer side."""
    image.thumbnail((side, side), Image.Resampling.BICUBIC, reducing_gap=2.0)
    sink = io.BytesIO()
    image.save(sink, "WEBP", quality=WEBP_QUALITY, method=WEBP_METHOD)
    return sink.getvalue()


def _overlay(data: bytes) -> bytes | None:
    """A mask as a PNG overlay: one color, more opaque where the mask is higher."""
    try:
        mask = decode_mask(data, max_pixels=MAX_PIXELS)
    except ImageError:
        return None
    mask.thumbnail((MASK_SIDE, MASK_SIDE), Image.Resampling.BOX)
    levels = np.round(np.asarray(mask, np.float32) * (MASK_LEVELS / 255)).astype(np.uint8)
    overlay = Image.fromarray(levels)
    overlay = overlay.convert("P") if overlay.mode != "P" else overlay
    overlay.putdata(levels.ravel().tolist())
    overlay.putpalette(list(MASK_COLOR) * (MASK_LEVELS + 1))
    alphas = bytes(MASK_ALPHA * level // MASK_LEVELS for level in range(MASK_LEVELS + 1))
    sink = io.BytesIO()
    overlay.save(sink, "PNG", transparency=alphas, bits=4, optimize=True)
    return sink.getvalue()
