"""Images of more than 8 bits a channel: white is white, as an image and as a mask."""

from __future__ import annotations

import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from pipeline.images.depth import SIGNED_NOTE
from pipeline.images.errors import ImageError
from pipeline.images.files import ALPHA_NOTE, decode_image, decode_mask

HEIGHT, WIDTH = 16, 32
RAMP = np.linspace(0, 1, HEIGHT * WIDTH).reshape(HEIGHT, WIDTH)  # black to white
WANTED = np.round(RAMP * 255).astype(int)


def pgm(white: int, values: np.ndarray, kind: str = "P5") -> bytes:
    head = f"{kind} {WIDTH} {HEIGHT} {white}\n".encode()
    return head + np.round(values * white).astype(">u2" if white > 255 else "u1").tobytes()


def tiff(order: str, kind: str, photometric: int, sample_format: int, values: np.ndarray,
         bits: int | None = None) -> bytes:  # fmt: skip
    """A gray or RGB TIFF in one strip, written out by hand (TIFF 6.0)."""
    samples = values.shape[2] if values.ndim == 3 else 1
    bits = bits or 8 * np.dtype(kind).itemsize
    strip = values.astype(order + kind).tobytes()
    count = 11
    after = 8 + 2 + 12 * count + 4
    lists = {name: struct.pack(f"{order}{samples}H", *[value] * samples)
             for name, value in ((258, bits), (339, sample_format))}  # fmt: skip
    tags: list[tuple[int, int, int, int | bytes]] = [
        (256, 4, 1, WIDTH), (257, 4, 1, HEIGHT), (258, 3, samples, lists[258]), (259, 3, 1, 1),
        (262, 3, 1, photometric), (273, 4, 1, 0), (277, 3, 1, samples), (278, 4, 1, HEIGHT),
        (279, 4, 1, len(strip)), (284, 3, 1, 1), (339, 3, samples, lists[339]),
    ]  # fmt: skip
    extra, entries = b"", b""
    start = after + sum(len(item) for item in lists.values() if len(item) > 4)
    for tag, type_, number, value in tags:
        if tag == 273:
            value = start
        if isinstance(value, bytes) and len(value) > 4:
            field = struct.pack(f"{order}I", after + len(extra))
            extra += value
        elif isinstance(value, bytes):
            field = value.ljust(4, b"\0")
        else:
            field = struct.pack(f"{order}{'H2x' if type_ == 3 else 'I'}", value)
        entries += struct.pack(f"{order}HHI", tag, type_, number) + field
    head = (b"II" if order == "<" else b"MM") + struct.pack(f"{order}HI", 42, 8)
    return head + struct.pack(f"{order}H", count) + entries + bytes(4) + extra + strip


def twelve_bits() -> bytes:
    """12 bits a value, two values in three bytes."""
    values = np.round(RAMP * 4095).astype(int).reshape(-1, 2)
    packed = [values[:, 0] >> 4, (values[:, 0] & 15) << 4 | values[:, 1] >> 8, values[:, 1] & 255]
    whole = tiff("<", "u1", 1, 1, np.stack(packed, -1).reshape(HEIGHT, -1), bits=12)
    assert len(Image.open(io.BytesIO(whole)).getbands()) == 1
    return whole


def deep_png(colors: np.ndarray, *chunks: tuple[bytes, bytes]) -> bytes:
    """16 bits of red, green and blue, which Pillow does not write."""
    height, width = colors.shape[:2]
    lines = b"".join(b"\0" + row.tobytes() for row in colors.astype(">u2"))
    header = struct.pack(">IIBBBBB", width, height, 16, 2, 0, 0, 0)
    pixels = (b"IDAT", zlib.compress(lines))
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        for kind, data in ((b"IHDR", header), *chunks, pixels, (b"IEND", b""))
    )


def saved(image: Image.Image, form: str) -> bytes:
    sink = io.BytesIO()
    image.save(sink, form)
    return sink.getvalue()


DEEP = np.round(RAMP * 65535)
GRAYS = {
    "PGM of 16 bits": pgm(65535, RAMP),
    "PGM of 10 bits": pgm(1023, RAMP),
    "PNG": saved(Image.fromarray(DEEP.astype(np.uint16)), "PNG"),
    "JPEG 2000": saved(Image.fromarray(DEEP.astype(np.uint16)), "JPEG2000"),
    "TIFF": tiff("<", "u2", 1, 1, DEEP),
    "TIFF, big-endian": tiff(">", "u2", 1, 1, DEEP),
    "TIFF, white is 0": tiff("<", "u2", 0, 1, 65535 - DEEP),
    "TIFF of 12 bits": twelve_bits(),
    "TIFF, signed": tiff("<", "i2", 1, 2, np.round(RAMP * 32767)),
    "TIFF, signed, big-endian": tiff(">", "i2", 1, 2, np.round(RAMP * 32767)),
    "TIFF, 8 bits, signed": tiff("<", "i1", 1, 2, np.round(RAMP * 127)),
}


def decode(data: bytes) -> tuple[np.ndarray, list[str]]:
    image, notes = decode_image(data, max_pixels=10**6, suffixes=["img"])
    return np.asarray(image), notes


@pytest.mark.parametrize("name", GRAYS)
def test_grays_are_scaled(name: str) -> None:
    """Black is 0 and white is 255, as an image and as a mask. Signs are noted."""
    image, notes = decode(GRAYS[name])
    steps = 127 if "8 bits" in name else 1023  # of the coarsest file
    assert np.abs(image - RAMP[..., None] * 255).max() <= 0.5 + 255 / steps / 2 + 1e-6
    assert (image[0, 0, 0], image[-1, -1, 0]) == (0, 255)
    assert notes == ([SIGNED_NOTE] if "signed" in name else [])
    mask = np.asarray(decode_mask(GRAYS[name], max_pixels=10**6))
    assert np.array_equal(mask, image[..., 0])


@pytest.mark.parametrize("form", ["PPM", "PNG"])
def test_colors_are_scaled(form: str) -> None:
    """16 bits of red, green and blue; Pillow rounds those of a PNG down."""
    colors = np.stack([RAMP, 1 - RAMP, np.full_like(RAMP, 0.5)], -1)
    if form == "PPM":
        data = pgm(65535, colors, "P6")
    else:
        data = deep_png(np.round(colors * 65535))
    image, notes = decode(data)
    assert np.abs(image - colors * 255).max() <= 1
    assert notes == []


def test_a_transparent_color_of_16_bits_is_found_among_8() -> None:
    """By its high bytes; Pillow compares its low bytes with the pixels' high ones."""
    colors = np.full((2, 4, 3), 0x3456)
    colors[0] = 0x1234
    transparent = (b"tRNS", struct.pack(">3H", *[0x1234] * 3))
    image, notes = decode(deep_png(colors, transparent))
    assert (image[0] == 255).all()
    assert (image[1] == 0x34).all()
    assert notes == [ALPHA_NOTE]


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (tiff("<", "f4", 1, 3, RAMP), "32 bits a channel"),
        (tiff("<", "i4", 1, 2, RAMP), "32 bits a channel"),
        (tiff("<", "f4", 2, 3, np.stack([RAMP] * 3, -1)), "floating-point or 32-bit colors"),
        (tiff("<", "f8", 1, 3, RAMP), "a TIFF file that Pillow cannot read"),
        (tiff(">", "i2", 1, 2, RAMP * 60000 - 30000), "signed values below 0"),
        (tiff("<", "i1", 1, 2, np.round(RAMP * 200 - 100)), "signed values below 0"),
    ],
    ids=["float", "int32", "float RGB", "double", "below 0", "below 0, 8 bits"],
)
def test_what_has_no_white_is_refused_by_name(data: bytes, words: str) -> None:
    """The reason is the values, not damage or another format."""
    with pytest.raises(ImageError, match=words) as refused:
        decode(data)
    assert refused.value.kind == "UnsupportedImage"
    with pytest.raises(ImageError, match=f"the mask: .*{words}") as refused:
        decode_mask(data, max_pixels=10**6)
    assert refused.value.kind == "BadMask"
