"""Images of more than 8 bits a channel become 8 bits, by scaling white to white.

Pillow scales colors itself (it keeps the high byte), and grays not at all.
"""

from __future__ import annotations

import numpy as np
from PIL import Image

from pipeline.images.errors import UNSUPPORTED, ImageError

BITS, PHOTOMETRIC, SAMPLE_FORMAT = 258, 262, 339  # TIFF 6.0
SIGNED = 2  # of the sample format
WHITE_IS_ZERO = 0  # of the photometric interpretation
SIGNED_NOTE = "signed values: 0 was taken as black and the largest value as white"


def in_8_bits(image: Image.Image, notes: list[str]) -> Image.Image:
    """A copy of the first frame in 8 bits, with what Pillow knows of it.

    Args:
        image: as opened, and loaded.
        notes: is told if the values are signed.

    Returns:
        Mode L, or LA where one value stands for transparent pixels, for grays of 9 to 16 bits;
        another image as it is.

    Raises:
        ImageError: 32 bits, floating-point numbers, or signed values below 0.
    """
    bits, is_signed, is_negative = _kind(image)
    if not is_signed and image.mode not in ("I", "F") and not image.mode.startswith("I;16"):
        return image.copy()
    if bits > 16 or image.mode == "F":
        raise ImageError(UNSUPPORTED, "images of 32 bits a channel are not supported")
    values = np.asarray(image).astype(np.int64)
    white = 2**bits - 1
    if is_signed:
        values = _signed(values, bits)
        white //= 2
        notes.append(SIGNED_NOTE)
    return _scaled(image, white - values if is_negative else values, white)


def _kind(image: Image.Image) -> tuple[int, bool, bool]:
    """Bits of a gray value, whether it has a sign, and whether 0 is white (and Pillow forgets)."""
    if image.format == "PPM":  # Pillow scales what is not 16 bits
        return 16, False, False
    if image.format != "TIFF":
        return (32 if image.mode == "I" else 16), False, False
    tags = image.tag_v2  # type: ignore[attr-defined]
    if len(tags.get(BITS, ())) != 1:  # colors
        return 8, False, False
    bits, is_signed = tags[BITS][0], tags.get(SAMPLE_FORMAT, (1,))[0] == SIGNED
    return bits, is_signed, bits > 8 and tags.get(PHOTOMETRIC) == WHITE_IS_ZERO


def _signed(values: np.ndarray, bits: int) -> np.ndarray:
    """Values from 0. What a value below 0 should look like, no two programs agree on."""
    if bits == 8:  # Pillow reads them as unsigned
        values = np.where(values > 127, values - 256, values)
    if values.min() < 0:
        raise ImageError(UNSUPPORTED, "signed values below 0 are not supported")
    return values


def _scaled(image: Image.Image, values: np.ndarray, white: int) -> Image.Image:
    """Mode L. (Pillow's own convert clips at 255.)"""
    gray = Image.fromarray(((values * 255 + white // 2) // white).astype(np.uint8))
    info = dict(image.info)
    key = info.pop("transparency", None)  # Pillow supports it with 8 bits only
    if key is not None:
        alpha = Image.fromarray(np.where(values == key, 0, 255).astype(np.uint8))
        gray = Image.merge("LA", (gray, alpha))
    gray.info = info
    return gray
