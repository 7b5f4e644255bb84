"""The only place where image files become pixels and pixels become files.

Colors are taken as the file's numbers, in sRGB's place: an embedded ICC profile is ignored and
not written again. CMYK is converted without a profile, 16 bits are scaled to 8.
"""

from __future__ import annotations

import io
import re
import threading
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import numpy as np
from PIL import ExifTags, Image

from pipeline.config.config import Output

# Pillow's names of the formats that may be decoded. Formats that call other programs (EPS) or are
# documents (PDF) are not among them, whatever the configuration says.
FORMATS = {
    **dict.fromkeys(("jpg", "jpeg", "jfif"), "JPEG"),
    **dict.fromkeys(("tif", "tiff"), "TIFF"),
    **dict.fromkeys(("ppm", "pgm"), "PPM"),
    **{name.lower(): name for name in ("PNG", "WEBP", "GIF", "BMP")},
}
# EXIF 2.32, tag 0x0112: how the stored image is to be turned.
TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
ALPHA_NOTE = "transparent pixels were put on white"
OUT_OF_MEMORY = MemoryError.__name__  # the kind of error that --retry-failed computes again
FRAMES_NOTE = "of an animated image the first frame was taken"


class ImageError(Exception):
    """Why a file gives no pixels: a kind of error, and a sentence that never varies."""

    def __init__(self, kind: str, message: str) -> None:
        super().__init__(message)
        self.kind, self.message = kind, message


def decode_image(
    data: bytes, *, max_pixels: int, suffixes: Sequence[str]
) -> tuple[Image.Image, list[str]]:
    """An image file as RGB, turned as its EXIF says.

    Args:
        data: the file.
        max_pixels: a file whose header declares more is not decoded.
        suffixes: whose formats are tried, by what follows their last dot; where one of them names
            none (``img``), all of ``FORMATS``.

    Returns:
        (image in mode RGB, notes on what was done to it).

    Raises:
        PictureError: it is no such image, too large, cut short or damaged.
    """
    endings = {suffix.lower().rpartition(".")[2] for suffix in suffixes}
    named = endings if endings <= FORMATS.keys() else FORMATS.keys()
    formats = sorted({FORMATS[name] for name in named})
    with _reasons(data, formats):
        image, notes = _loaded(data, formats, max_pixels)
        return _as_rgb(image, notes), notes


def _as_rgb(image: Image.Image, notes: list[str]) -> Image.Image:
    """Turned, without alpha, 8 bits a channel; adds to the notes what changes the image."""
    turn = TURNS.get(_orientation(image))
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
    return image if turn is None else image.transpose(turn)


def decode_mask(data: bytes, *, max_pixels: int) -> Image.Image:
    """A mask file in mode L: 255 = edit. Transparent pixels are 0.

    Raises:
        PictureError: see ``decode_picture``.
    """
    formats = sorted(set(FORMATS.values()))
    try:
        with _reasons(data, formats):
            return _as_grey(_loaded(data, formats, max_pixels)[0])
    except ImageError as error:
        kind = OUT_OF_MEMORY if error.kind == OUT_OF_MEMORY else "BadMask"
        raise ImageError(kind, f"the mask: {error.message}") from error


def _as_grey(mask: Image.Image) -> Image.Image:
    if mask.mode.startswith("I;16"):
        mask = _from_16_bits(mask)
    if mask.mode in ("I", "F"):
        raise ImageError("UnsupportedImage", "32 bits a channel are not supported")
    if mask.has_transparency_data:
        mask = mask.convert("RGBA")
        mask = Image.alpha_composite(Image.new("RGBA", mask.size, "black"), mask)
    return mask.convert("L")


def encode_image(pixels: np.ndarray, output: Output) -> bytes:
    """An image file, the same bytes each time.

    Args:
        pixels: (H, W, 3) uint8.
        output: format and quality. A jpg keeps the colors' full resolution (4:4:4) from quality
            90 on, below it halves it both ways (4:2:0).
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


def encode_grey(values: np.ndarray) -> bytes:
    """(H, W) uint8 as a PNG, the same bytes each time."""
    sink = io.BytesIO()
    Image.fromarray(values).save(sink, "PNG")
    return sink.getvalue()


def _loaded(data: bytes, formats: list[str], max_pixels: int) -> tuple[Image.Image, list[str]]:
    """The first frame, decoded, and a note if there are others; its size is looked at before."""
    image = Image.open(io.BytesIO(data), formats=formats)
    width, height = image.size
    if width * height > max_pixels:
        raise ImageError(
            "TooLarge",
            f"the header declares {width} x {height} pixels, above input.max_pixels={max_pixels}",
        )
    image.load()
    still = image.copy()  # counting frames reads on
    return still, [FRAMES_NOTE] if _is_animated(image) else []


@contextmanager
def _reasons(data: bytes, formats: list[str]) -> Iterator[None]:
    """Turns whatever Pillow raises into a ``PictureError``; our limit of pixels is the one."""
    if not data:
        raise ImageError("EmptyFile", "the image's member has 0 bytes")
    try:
        with _PILLOW:
            yield
    except ImageError:
        raise
    except Image.UnidentifiedImageError as error:
        tried = ", ".join(formats)
        raise ImageError("NotAnImage", f"the bytes are no image of {tried}") from error
    except MemoryError as error:  # the machine's fault, and not the image's: tried again
        raise ImageError(OUT_OF_MEMORY, "the memory did not suffice to decode it") from error
    except Exception as error:  # hostile bytes make decoders raise anything
        raise ImageError("DamagedImage", _stable(error)) from error


class _PillowsSettings:
    """Those of the process, as they are needed while any of its threads decodes.

    Pillow's own limit of pixels is lifted, and put back by the last thread. Its warnings, of odd
    EXIF and the like, are left out for good: ``warnings.catch_warnings`` is not for threads
    (Python below 3.14).
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


_PILLOW = _PillowsSettings()


def _is_animated(image: Image.Image) -> bool:
    try:
        return bool(getattr(image, "is_animated", False))
    except Exception:  # noqa: BLE001 - frames that cannot be read are no frames
        return False


def _orientation(image: Image.Image) -> int:
    try:
        value = image.getexif().get(ExifTags.Base.Orientation, 1)
    except Exception:  # noqa: BLE001 - damaged EXIF raises anything, and turns nothing
        return 1
    return value if isinstance(value, int) else 1


def _from_16_bits(image: Image.Image) -> Image.Image:
    """Mode I;16 as L, scaled: 65535 becomes 255. (Pillow's own converts clip at 255.)

    As LA, where one value stands for transparent pixels: Pillow has alpha for 8 bits alone.
    """
    wide = np.asarray(image).astype(np.uint32)
    grey = Image.fromarray(((wide * 255 + 32767) // 65535).astype(np.uint8))
    key = image.info.get("transparency")
    if key is None:
        return grey
    alpha = Image.fromarray(np.where(wide == key, 0, 255).astype(np.uint8))
    return Image.merge("LA", (grey, alpha))


def _stable(error: Exception) -> str:
    """The error's first line without what differs from run to run, such as addresses."""
    line = (str(error).splitlines() or [""])[0]
    line = re.sub(r"<[^>]*>|0x[0-9a-fA-F]+", "", line).strip()
    return line or type(error).__name__
