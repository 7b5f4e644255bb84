"""The only place where image files become pixels and pixels become files.

Color values are used as stored and treated as sRGB: an embedded ICC profile is ignored and not
written to the output. CMYK is converted without a profile. 16 bits are scaled to 8.
"""

from __future__ import annotations

import io
import re
import threading
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import numpy as np
from PIL import ExifTags, Image, UnidentifiedImageError

from pipeline.config.config import Output

# Pillow's names of the formats that may be decoded. Formats that run other programs (EPS) or are
# documents (PDF) are never decoded, whatever the configuration says.
FORMATS = {
    **dict.fromkeys(("jpg", "jpeg", "jfif"), "JPEG"),
    **dict.fromkeys(("tif", "tiff"), "TIFF"),
    **dict.fromkeys(("ppm", "pgm"), "PPM"),
    **{name.lower(): name for name in ("PNG", "WEBP", "GIF", "BMP")},
}
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
ALPHA_NOTE = "transparent pixels were put on white"
OUT_OF_MEMORY = MemoryError.__name__  # the kind of error that --retry-failed retries
FRAMES_NOTE = "of an animated image the first frame was taken"


class ImageError(Exception):
    """A file that cannot be decoded: the kind of error, and a message that is always the same."""

    def __init__(self, kind: str, message: str) -> None:
        super().__init__(message)
        self.kind, self.message = kind, message


def decode_image(
    data: bytes, *, max_pixels: int, suffixes: Sequence[str]
) -> tuple[Image.Image, list[str]]:
    """Decodes an image file to RGB, rotated as its EXIF says.

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
    endings = {suffix.lower().rpartition(".")[2] for suffix in suffixes}
    known = endings if endings <= FORMATS.keys() else FORMATS.keys()
    formats = sorted({FORMATS[name] for name in known})
    with _as_image_errors(data, formats):
        image, notes = _loaded(data, formats, max_pixels)
        return _as_rgb(image, notes), notes


def _as_rgb(image: Image.Image, notes: list[str]) -> Image.Image:
    """Rotates, removes alpha and converts to 8 bits per channel; notes what changes the image."""
    transpose = TRANSPOSES.get(_orientation(image))
    if image.mode.startswith("I;16"):
        image = _from_16_bits(image)
    if image.has_transparency_data:
        image = image.convert("RGBA")
        if image.getchannel("A").getextrema() != (255, 255):
            notes.append(ALPHA_NOTE)
        white = Image.new("RGBA", image.size, "white")
        image = Image.alpha_composite(white, image)
    elif image.mode in ("I", "F"):
        raise ImageError("UnsupportedImage", "images of 32 bits a channel are not supported")
    image = image.convert("RGB")
    return image if transpose is None else image.transpose(transpose)


def decode_mask(data: bytes, *, max_pixels: int) -> Image.Image:
    """Decodes a mask file to mode L: 255 = edit. Transparent pixels become 0.

    Raises:
        ImageError: see ``decode_image``.
    """
    formats = sorted(set(FORMATS.values()))
    try:
        with _as_image_errors(data, formats):
            return _as_gray(_loaded(data, formats, max_pixels)[0])
    except ImageError as error:
        kind = OUT_OF_MEMORY if error.kind == OUT_OF_MEMORY else "BadMask"
        raise ImageError(kind, f"the mask: {error.message}") from error


def _as_gray(mask: Image.Image) -> Image.Image:
    if mask.mode.startswith("I;16"):
        mask = _from_16_bits(mask)
    if mask.mode in ("I", "F"):
        raise ImageError("UnsupportedImage", "32 bits a channel are not supported")
    if mask.has_transparency_data:
        mask = mask.convert("RGBA")
        mask = Image.alpha_composite(Image.new("RGBA", mask.size, "black"), mask)
    return mask.convert("L")


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
    image = Image.open(io.BytesIO(data), formats=formats)
    width, height = image.size
    if width * height > max_pixels:
        raise ImageError(
            "TooLarge",
            f"the header declares {width} x {height} pixels, above input.max_pixels={max_pixels}",
        )
    image.load()
    first_frame = image.copy()  # because counting the frames reads on in the file
    return first_frame, [FRAMES_NOTE] if _is_animated(image) else []


@contextmanager
def _as_image_errors(data: bytes, formats: list[str]) -> Iterator[None]:
    """Turns everything that Pillow raises into an ``ImageError``; Pillow's pixel limit is off."""
    if not data:
        raise ImageError("EmptyFile", "the image's member has 0 bytes")
    try:
        with _PILLOW:
            yield
    except ImageError:
        raise
    except UnidentifiedImageError as error:
        tried = ", ".join(formats)
        raise ImageError("NotAnImage", f"the bytes are not an image in {tried}") from error
    except MemoryError as error:  # the machine's fault, not the image's, so it can be retried
        raise ImageError(OUT_OF_MEMORY, "out of memory while decoding") from error
    except Exception as error:  # hostile bytes make decoders raise anything
        raise ImageError("DamagedImage", _stable(error)) from error


class _PillowSettings:
    """Changes Pillow's process-wide settings while any thread decodes.

    Pillow's own pixel limit is off; the last thread restores it. Pillow's warnings, about odd EXIF
    for example, stay off, because ``warnings.catch_warnings`` is not thread-safe (Python below
    3.14).
    """

    def __init__(self) -> None:
        self._lock, self._threads = threading.Lock(), 0
        self._limit: int | None = None

    def __enter__(self) -> None:
        with self._lock:
            if not self._threads:
                self._limit, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
                warnings.filterwarnings("ignore", module=r"PIL\.")
            self._threads += 1

    def __exit__(self, *error: object) -> None:
        with self._lock:
            self._threads -= 1
            if not self._threads:
                Image.MAX_IMAGE_PIXELS = self._limit


_PILLOW = _PillowSettings()


def _is_animated(image: Image.Image) -> bool:
    try:
        return bool(getattr(image, "is_animated", False))
    except Exception:  # noqa: BLE001 - frames that cannot be read do not count
        return False


def _orientation(image: Image.Image) -> int:
    try:
        value = image.getexif().get(ExifTags.Base.Orientation, 1)
    except Exception:  # noqa: BLE001 - damaged EXIF raises anything; it is ignored
        return 1
    return value if isinstance(value, int) else 1


def _from_16_bits(image: Image.Image) -> Image.Image:
    """Converts mode I;16 to L by scaling: 65535 becomes 255. (Pillow's own convert clips at 255.)

    If one value stands for transparent pixels, the result is LA: Pillow supports transparency
    with 8 bits only.
    """
    wide = np.asarray(image).astype(np.uint32)
    gray = Image.fromarray(((wide * 255 + 32767) // 65535).astype(np.uint8))
    key = image.info.get("transparency")
    if key is None:
        return gray
    alpha = Image.fromarray(np.where(wide == key, 0, 255).astype(np.uint8))
    return Image.merge("LA", (gray, alpha))


def _stable(error: Exception) -> str:
    """The error's first line without parts that vary from run to run, such as addresses."""
    line = (str(error).splitlines() or [""])[0]
    line = re.sub(r"<[^>]*>|0x[0-9a-fA-F]+", "", line).strip()
    return line or type(error).__name__
