"""PNG's texts, profiles and transparent color, where Pillow needs help.

Texts are not read, so they are taken out before Pillow unpacks them. A sound file may hold
megabytes of text: workflows and prompts, for example. Pillow unpacks every text, and refuses the
whole file above 1 MiB of one or 64 MiB of all.
"""

from __future__ import annotations

import struct
import zlib

from PIL import Image

SIGNATURE = b"\x89PNG\r\n\x1a\n"
MAX_BYTES = 2**20  # of a text or profile; Pillow's own limit (MAX_TEXT_CHUNK)
BIT_DEPTH = 24  # its place in the file: behind signature, IHDR's head, width and height
MAX_KEYWORD = 80  # bytes, with the 0 behind it (PNG, 11.3.3)
# The texts in which Pillow looks for an orientation, written by ImageMagick and by Adobe.
WITH_ORIENTATION = (b"Raw profile type exif", b"XML:com.adobe.xmp")


def without_texts(data: bytes) -> tuple[bytes, bool]:
    """Takes the texts out of a PNG file, except those that may say how the image is turned.

    Also takes out a color profile that cannot be unpacked within ``MAX_BYTES``.

    Args:
        data: a file of any format; another than PNG stays as it is.

    Returns:
        (the file, whether a profile was taken out). Memory: at most the file's size again, and
        ``MAX_BYTES``.
    """
    if not data.startswith(SIGNATURE):
        return data, False
    view, kept, lost_profile = memoryview(data), [], False
    begin = place = len(SIGNATURE)
    seen: set[bytes] = set()
    while place + 12 <= len(data):
        length, kind = struct.unpack_from(">I4s", data, place)
        end = place + 12 + length
        if kind == b"IEND" or end > len(data):  # Pillow says what is wrong with a short file
            break
        if kind in PACKED and not _is_read(kind, view[place + 8 : end - 4], seen):
            lost_profile |= kind == b"iCCP"
            kept.append(view[begin:place])
            begin = end
        place = end
    if not kept:
        return data, False
    return b"".join([SIGNATURE, *kept, view[begin:]]), lost_profile


def with_8_bit_key(image: Image.Image, data: bytes) -> None:
    """Halves the 16 bits of a PNG's transparent color: Pillow keeps the pixels' high bytes only.

    Pixels that differ from it in low bytes alone become transparent too.

    Args:
        image: as opened; its info is changed in place.
        data: the file.
    """
    key = image.info.get("transparency")
    if image.format == "PNG" and isinstance(key, tuple) and data[BIT_DEPTH] == 16:
        image.info["transparency"] = tuple(value >> 8 for value in key)


def _is_read(kind: bytes, chunk: memoryview, seen: set[bytes]) -> bool:
    """Whether Pillow gets a chunk: once each what may be of use, if it is small unpacked."""
    keyword = bytes(chunk[:MAX_KEYWORD]).partition(b"\0")[0]
    name = kind if kind == b"iCCP" else keyword
    if name in seen or not (kind == b"iCCP" or keyword in WITH_ORIENTATION):
        return False
    seen.add(name)
    return PACKED[kind](bytes(chunk[len(keyword) + 1 :]))


def _is_small(text: bytes) -> bool:
    return len(text) <= MAX_BYTES


def _unpacks(packed: bytes) -> bool:
    """Method (0) and zlib data, of at most ``MAX_BYTES`` when unpacked."""
    unpacking = zlib.decompressobj()
    try:
        unpacking.decompress(packed[1:], MAX_BYTES)
    except zlib.error:
        return False
    return packed[:1] == b"\0" and not unpacking.unconsumed_tail


def _international(rest: bytes) -> bool:
    """Flag, method, language, translated keyword and the text, packed where the flag says so."""
    parts = rest[2:].split(b"\0", 2)
    if len(parts) < 3:
        return False
    return _unpacks(rest[1:2] + parts[2]) if rest[0] else _is_small(parts[2])


PACKED = {b"iCCP": _unpacks, b"zTXt": _unpacks, b"iTXt": _international, b"tEXt": _is_small}
