"""The formats that may be decoded, and what is said of a file that this Pillow cannot open.

Formats that run other programs (EPS) or are documents (PDF) are never decoded, whatever the
configuration says.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from PIL import AvifImagePlugin, features

from pipeline.images.errors import UNSUPPORTED, ImageError

FORMATS = {  # Pillow's names, by suffix
    **dict.fromkeys(("jpg", "jpeg", "jfif"), "JPEG"),
    **dict.fromkeys(("tif", "tiff"), "TIFF"),
    **dict.fromkeys(("ppm", "pgm"), "PPM"),
    **dict.fromkeys(("jp2", "j2k", "j2c", "jpc", "jpf", "jpx"), "JPEG2000"),
    **{name.lower(): name for name in ("PNG", "WEBP", "GIF", "BMP", "AVIF")},
}
# How files begin that are of a format and yet may be none that Pillow opens.
BEGINNINGS = {
    "AVIF": re.compile(rb"....ftypavi[fs]", re.DOTALL),
    "JPEG2000": re.compile(rb"\xff\x4f\xff\x51|\0\0\0\x0cjP  \r\n\x87\n"),
    "WEBP": re.compile(rb"RIFF....WEBP", re.DOTALL),
    "TIFF": re.compile(rb"II[*+]\0|MM\0[*+]"),
}
# Images are decoded in threads of our own; Pillow would start one a CPU for each image.
AvifImagePlugin.DEFAULT_MAX_THREADS = 1
CODECS = {"AVIF": "avif", "JPEG2000": "jpg_2000", "WEBP": "webp"}  # Pillow's names of features


def formats_of(suffixes: Sequence[str]) -> list[str]:
    """Pillow's names of the formats of some suffixes, by the part after their last dot.

    All formats, if one of the suffixes is not in ``FORMATS`` (``img``).
    """
    endings = {suffix.lower().rpartition(".")[2] for suffix in suffixes}
    known = endings if endings <= FORMATS.keys() else FORMATS.keys()
    return sorted({FORMATS[name] for name in known})


def refuse_without_codec(data: bytes, formats: Sequence[str]) -> None:
    """Refuses a file that begins as one of the formats, if this Pillow was built without it.

    Raises:
        ImageError: it says which format is missing.
    """
    name = _begins_as(data, formats)
    if name in CODECS and not features.check(CODECS[name]):
        raise ImageError(
            UNSUPPORTED, f"the image is {name}, and this installation of Pillow has no {name} codec"
        )


def refuse_unknown_kind(data: bytes, formats: Sequence[str]) -> None:
    """Refuses a TIFF file that Pillow does not recognize: they come in many kinds.

    Raises:
        ImageError: so that the reason is not that the file is of another format.
    """
    if _begins_as(data, formats) == "TIFF":
        raise ImageError(
            UNSUPPORTED,
            "a TIFF file that Pillow cannot read: damaged, or of a pixel format that it does not "
            "know, such as floating-point or 32-bit colors",
        )


def _begins_as(data: bytes, formats: Sequence[str]) -> str | None:
    return next(
        (name for name, start in BEGINNINGS.items() if name in formats and start.match(data)), None
    )
