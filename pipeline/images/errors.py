"""Everything that Pillow raises about a file becomes an ``ImageError``."""

from __future__ import annotations

import re
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

from PIL import Image, UnidentifiedImageError

OUT_OF_MEMORY = MemoryError.__name__  # the kind of error that --retry-failed retries
UNSUPPORTED = "UnsupportedImage"


class ImageError(Exception):
    """A file that cannot be decoded: the kind of error, and a message that is always the same."""

    def __init__(self, kind: str, message: str) -> None:
        super().__init__(message)
        self.kind, self.message = kind, message


@contextmanager
def as_image_errors(data: bytes, formats: list[str]) -> Iterator[None]:
    """Turns everything that Pillow raises into an ``ImageError``; Pillow's pixel limit is off.

    Args:
        data: the file.
        formats: Pillow's names of those that are tried.
    """
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


def _stable(error: Exception) -> str:
    """The error's first line without parts that vary from run to run, such as addresses."""
    line = (str(error).splitlines() or [""])[0]
    line = re.sub(r"<[^>]*>|0x[0-9a-fA-F]+", "", line).strip()
    return line or type(error).__name__
