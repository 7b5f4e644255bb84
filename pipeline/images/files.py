"""The only place where image files become pixels and pixels become files.

Pixels are sRGB: an embedded ICC profile is converted (``color.py``) and not written to the output.
CMYK without a profile is converted by a formula. 16 bits are scaled to 8 (``depth.py``).
"""

from __future__ import annotations

import io
from collections.abc import Sequence

import numpy as np
from PIL import ExifTags, Image, UnidentifiedImageError

from pipeline.config.config import Output
from pipeline.images.color import BROKEN_NOTE, GRAY_MODES, lacks_a_piece, to_srgb
from pipeline.images.depth import in_8_bits
from pipeline.images.errors import OUT_OF_MEMORY, ImageError, as_image_errors
from pipeline.images.formats import (
    FORMATS,
    formats_of,
    refuse_unknown_kind,
    refuse_without_codec,
)
from pipeline.images.png import with_8_bit_key, without_texts

# EXIF 2.32, tag 0x0112: how to transpose the stored image.
TRANSPOSES = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
SIDEWAYS = {TRANSPOSES[value] for value in (5, 6, 7, 8)}
CHEAP = {"JPEG", "PNG", "WEBP"}  # the header is read, and no pixel
ALPHA_NOTE = "transparent pixels were put on white"
FRAMES_NOTE = "of an animated image the first frame was taken"
# A progressive JPEG has some ten scans, and each is a pass over all pixels: one of a thousand scans
# takes minutes. In compressed data 0xFF is followed by 0, so a count of the marker is right.
START_OF_SCAN, MAX_SCANS = b"\xff\xda", 100


def decode_image(
    data: bytes, *, max_pixels: int, suffixes: Sequence[str]
) -> tuple[Image.Image, list[str]]:
    """Decodes an image file to RGB, rotated as its EXIF says, in sRGB.

    Args:
        data: the file.
        max_pixels: a file whose header declares more pixels is not decoded.
        suffixes: the formats of these suffixes are tried, by the part after their last dot. If one
            of them is not in ``FORMATS`` (``img``), all formats are tried.

    Returns:
        (image in mode RGB, notes on conversions).

    Raises:
        ImageError: the file is not an image of these formats, too large, truncated or damaged.
    """
    formats = formats_of(suffixes)
    with as_image_errors(data, formats):
        image, notes = _loaded(data, formats, max_pixels)
        return _as_rgb(image, notes), notes


def shape_of(data: bytes, *, suffixes: Sequence[str]) -> float:
    """Width over height of an image as it is shown, from its header; 0 of what cannot be read.

    Args:
        data: the file.
        suffixes: as in ``decode_image``.
    """
    formats = [name for name in formats_of(suffixes) if name in CHEAP]
    try:
        with Image.open(io.BytesIO(data), formats=formats) as image:
            width, height = image.size
            # a PNG is decoded to its end for its EXIF
            turned = image.format != "PNG" and _transpose(image) in SIDEWAYS
    except Exception:  # noqa: BLE001 - why it cannot be read is said where it is decoded
        return 0.0
    return height / width if turned else width / height


def _as_rgb(image: Image.Image, notes: list[str]) -> Image.Image:
    """Rotates, converts to sRGB and removes alpha; notes what changes the image."""
    transpose, profile = _transpose(image), image.info.get("icc_profile")
    alpha = None
    if image.has_transparency_data:
        is_gray = image.mode in GRAY_MODES
        image = image.convert("RGBA")
        alpha = image.getchannel("A")
        image = image.convert("L" if is_gray else "RGB")
    image = to_srgb(image, profile, notes)
    if alpha is not None and alpha.getextrema() != (255, 255):
        notes.append(ALPHA_NOTE)
        image.putalpha(alpha)
        white = Image.new("RGBA", image.size, "white")
        image = Image.alpha_composite(white, image).convert("RGB")
    return image if transpose is None else image.transpose(transpose)


def decode_mask(data: bytes, *, max_pixels: int) -> Image.Image:
    """Decodes a mask file to mode L, rotated as its EXIF says: 255 = edit.

    Transparent pixels become 0. Values are taken as stored: a mask has no colors to convert.

    Raises:
        ImageError: see ``decode_image``.
    """
    formats = sorted(set(FORMATS.values()))
    try:
        with as_image_errors(data, formats):
            return _as_gray(_loaded(data, formats, max_pixels)[0])
    except ImageError as error:
        kind = OUT_OF_MEMORY if error.kind == OUT_OF_MEMORY else "BadMask"
        raise ImageError(kind, f"the mask: {error.message}") from error


def _as_gray(mask: Image.Image) -> Image.Image:
    transpose = _transpose(mask)
    if mask.has_transparency_data:
        mask = mask.convert("RGBA")
        mask = Image.alpha_composite(Image.new("RGBA", mask.size, "black"), mask)
    mask = mask.convert("L")
    return mask if transpose is None else mask.transpose(transpose)


def encode_image(pixels: np.ndarray, output: Output) -> bytes:
    """Encodes an image file; equal pixels give equal bytes.

    Args:
        pixels: (H, W, 3) uint8.
        output: format and quality. A jpg has full color resolution (4:4:4) from quality 90 on,
            and half of it in both directions (4:2:0) below.
    """
    sink = io.BytesIO()
    image = Image.fromarray(pixels)
    if output.format == "jpg":
        subsampling = 0 if output.quality >= 90 else 2
        image.save(sink, "JPEG", quality=output.quality, subsampling=subsampling)
    elif output.format == "webp":
        quality = 100 if output.lossless else output.quality
        image.save(sink, "WEBP", quality=quality, lossless=output.lossless, method=4, exact=True)
    else:
        image.save(sink, "PNG")
    return sink.getvalue()


def encode_gray(values: np.ndarray) -> bytes:
    """Encodes (H, W) uint8 as a PNG; equal values give equal bytes."""
    sink = io.BytesIO()
    Image.fromarray(values).save(sink, "PNG")
    return sink.getvalue()


def _loaded(data: bytes, formats: list[str], max_pixels: int) -> tuple[Image.Image, list[str]]:
    """Decodes the first frame, and notes if there are others. Checks the size before decoding."""
    refuse_without_codec(data, formats)
    data, lost_profile = without_texts(data)
    try:
        image = Image.open(io.BytesIO(data), formats=formats)
    except UnidentifiedImageError:
        refuse_unknown_kind(data, formats)
        raise
    width, height = image.size
    if width * height > max_pixels:
        raise ImageError(
            "TooLarge",
            f"the header declares {width} x {height} pixels, above input.max_pixels={max_pixels}",
        )
    if image.format in ("JPEG", "MPO") and (scans := data.count(START_OF_SCAN)) > MAX_SCANS:
        raise ImageError("TooManyScans", f"a JPEG of {scans} scans; at most {MAX_SCANS} are read")
    image.load()
    with_8_bit_key(image, data)
    notes = [BROKEN_NOTE] if lost_profile or lacks_a_piece(image) else []
    first_frame = in_8_bits(image, notes)  # a copy, because counting the frames reads on
    if first_frame.mode == "La":  # alpha is multiplied in; Pillow converts it to LA only
        first_frame = first_frame.convert("LA")
    return first_frame, [*notes, FRAMES_NOTE] if _is_animated(image) else notes


def _is_animated(image: Image.Image) -> bool:
    try:
        # What is behind a JPEG's image (MPO) is a gain map or a preview of it.
        return image.format != "MPO" and bool(getattr(image, "is_animated", False))
    except Exception:  # noqa: BLE001 - frames that cannot be read do not count
        return False


def _transpose(image: Image.Image) -> Image.Transpose | None:
    """What turns the stored image upright, by its EXIF; None if it is upright."""
    try:
        value = image.getexif().get(ExifTags.Base.Orientation, 1)
    except Exception:  # noqa: BLE001 - damaged EXIF raises anything; it is ignored
        return None
    return TRANSPOSES.get(value) if isinstance(value, int) else None
