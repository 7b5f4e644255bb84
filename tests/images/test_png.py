"""Texts of a PNG are not read: sound files with long ones are images."""

from __future__ import annotations

import io
import struct
import tracemalloc
import zlib

import numpy as np
import pytest
from PIL import Image, ImageOps

from pipeline.images.color import BROKEN_NOTE
from pipeline.images.errors import ImageError
from pipeline.images.files import decode_image, decode_mask
from pipeline.images.png import without_texts
from tests.samples import encode, pixels

PLAIN = encode(pixels(1))
HEAD = 8 + 25  # bytes of the signature and of IHDR
LONG = zlib.compress(b"x" * 1_200_000)
Chunk = tuple[bytes, bytes]
CHUNKS: dict[str, list[Chunk]] = {
    "a packed text": [(b"zTXt", b"workflow\0\0" + LONG)],
    "an international text": [(b"iTXt", b"workflow\0\1\0\0\0" + LONG)],
    "a long XMP": [(b"iTXt", b"XML:com.adobe.xmp\0\1\0\0\0" + LONG)],
    "a plain text": [(b"tEXt", b"workflow\0" + b"x" * 1_200_000)],
    "many texts": [(b"zTXt", b"w%d\0\0" % n + zlib.compress(b"x" * 1_000_000)) for n in range(70)],
    "many of one name": [(b"zTXt", b"Raw profile type exif\0\0" + zlib.compress(b"0" * 1_000_000))]
    * 70,
    "another method": [(b"zTXt", b"workflow\0\1" + LONG)],
    "no zlib": [(b"zTXt", b"Raw profile type exif\0\0text")],
    "no keyword": [(b"tEXt", b""), (b"zTXt", b""), (b"iTXt", b""), (b"iTXt", b"a\0")],
}


def png(chunks: list[Chunk], *, sum_of: bytes | None = None) -> bytes:
    """``PLAIN`` with further chunks; ``sum_of`` replaces what the checksums are of."""
    made = b"".join(
        struct.pack(">I", len(data)) + kind + data
        + struct.pack(">I", zlib.crc32(kind + data if sum_of is None else sum_of))
        for kind, data in chunks
    )  # fmt: skip
    return PLAIN[:HEAD] + made + PLAIN[HEAD:]


def decoded(data: bytes) -> tuple[np.ndarray, list[str]]:
    image, notes = decode_image(data, max_pixels=10**6, suffixes=["png"])
    return np.asarray(image), notes


@pytest.mark.parametrize("name", CHUNKS)
@pytest.mark.parametrize("place", ["before", "after"])
def test_an_image_with_long_texts_is_an_image(name: str, place: str) -> None:
    """Before and behind the pixels, and as a mask."""
    data = png(CHUNKS[name])
    if place == "after":
        end = len(PLAIN) - 12
        data = PLAIN[:end] + data[HEAD : len(data) - len(PLAIN) + HEAD] + PLAIN[end:]
    image, notes = decoded(data)
    assert np.array_equal(image, pixels(1))
    assert notes == []
    assert decode_mask(data, max_pixels=10**6).size == (64, 48)


def test_texts_are_not_unpacked() -> None:
    """Memory holds the file again and no text: 70 MB of texts in a few kilobytes."""
    data = png(CHUNKS["many texts"])
    decoded(data)
    tracemalloc.start()
    decoded(data)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < len(data) + 1_000_000


def test_a_texts_checksum_does_not_count() -> None:
    """A text that is damaged costs nothing; pixels that are damaged do."""
    assert np.array_equal(decoded(png(CHUNKS["a plain text"], sum_of=b""))[0], pixels(1))
    with pytest.raises(ImageError, match="broken data stream"):
        decoded(png([(b"IDAT", b"x")], sum_of=b""))


@pytest.mark.parametrize("profile", [LONG, b"no zlib"], ids=["long", "damaged"])
def test_a_profile_that_cannot_be_unpacked_is_noted(profile: bytes) -> None:
    """The colors are taken as stored, and the row says so."""
    image, notes = decoded(png([(b"iCCP", b"icc\0\0" + profile)]))
    assert np.array_equal(image, pixels(1))
    assert notes == [BROKEN_NOTE]


def test_texts_that_turn_the_image_are_read() -> None:
    """An orientation in XMP or in a raw profile, as Pillow reads it."""
    xmp = b'XML:com.adobe.xmp\0\0\0\0\0<x tiff:Orientation="6"/>'
    exif = Image.Exif()
    exif[0x0112] = 6
    hexadecimal = exif.tobytes().hex().encode()
    raw = b"Raw profile type exif\0\0" + zlib.compress(b"\nexif\n8\n" + hexadecimal)
    for chunk in ((b"iTXt", xmp), (b"zTXt", raw)):
        data = png([(b"zTXt", b"workflow\0\0" + LONG), chunk])
        wanted = Image.fromarray(pixels(1)).transpose(Image.Transpose.ROTATE_270)
        assert np.array_equal(decoded(data)[0], np.asarray(wanted))


@pytest.mark.parametrize("data", [PLAIN, encode(pixels(1), "jpg"), b"", PLAIN[:40]])
def test_a_file_without_texts_is_the_same_object(data: bytes) -> None:
    """Nothing is copied where nothing is taken out."""
    assert without_texts(data)[0] is data


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_mask_is_turned_by_its_own_exif(orientation: int) -> None:
    """As the image is: the tool that made the mask of a photo copied the photo's EXIF."""
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored = np.zeros((24, 32), np.uint8)
    stored[:6, :10] = 255
    data = encode(stored, exif=exif)
    mask = decode_mask(data, max_pixels=10**6)
    upright = ImageOps.exif_transpose(Image.open(io.BytesIO(data)))
    assert np.array_equal(np.asarray(mask), np.asarray(upright))
