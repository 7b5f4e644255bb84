"""Walks over the headers of a tar, once, and says of every byte range what it is.

Python's tarfile stops without an error at a damaged header and at a cut, never says which files it
left out, and needs time that grows with the square of the size for some tars. So the walk is
written here; tarfile parses and checks the single headers. Each step consumes at least a block, so
the time is linear in the size. No content is decompressed.

Formats: ustar, GNU and pax (POSIX.1-2001, pax interchange format).
"""

from __future__ import annotations

import tarfile
from collections.abc import Iterator
from dataclasses import dataclass

from pipeline.storage.content import Content, find_not_zero
from pipeline.storage.pax import Extended, read_pax

BLOCK = tarfile.BLOCKSIZE
MAX_EXTENDED = 1 << 20  # bytes of an extended header, which holds names and attributes
MAX_PADDING = 22 * BLOCK  # the end-of-archive blocks, and zeros up to a record of tar -b 20
RECORDS = tuple(BLOCK * factor for factor in (64, 126, 128, 256, 512, 1024, 2048))  # larger ones
SIZE_FIELD = slice(124, 136)
NAME_BYTES = 100  # at the start of a header
MAGIC = 257  # offset of "ustar" in a header


@dataclass(frozen=True, slots=True)
class Entry:
    """A member as its header declares it. Its content is ``data[start:end]``."""

    name: str
    kind: bytes  # tarfile's types
    start: int
    end: int
    link: str = ""
    sparse: bool = False


@dataclass(frozen=True, slots=True)
class Damage:
    """A place where members may have been lost."""

    offset: int
    reason: str
    header: bytes | None = None  # the damaged header block, where it may tell what was lost


@dataclass(frozen=True, slots=True)
class Junction:
    """The end of an archive that another one follows: nothing is lost."""

    offset: int


def walk(data: Content) -> Iterator[Entry | Damage | Junction]:
    """The members of a tar and the places of damage, in order.

    After damage, it goes on at the next valid header. A tar inside of the tar is content, so its
    members are not yielded; see ``_resume``.

    Args:
        data: the whole tar.
    """
    if not len(data):
        yield Damage(0, "the file is empty")
    offset: int | None = 0 if len(data) else None
    extended = Extended()
    while offset is not None:
        found = _at(data, offset, extended)
        if isinstance(found, int):  # the end of an extended header
            offset = found
            continue
        extended = Extended()
        if found is None:
            return
        yield found
        if isinstance(found, Junction):
            offset = found.offset
        elif isinstance(found, Damage):
            offset = _resume(data, found)
        elif found.end > len(data):
            yield Damage(len(data), "the end-of-archive blocks are missing")
            return
        else:
            offset = found.start + _blocks(found.end - found.start)


def suffix_lost(header: bytes, key: str) -> str | None:
    """The suffix of the file ``key.SUFFIX`` that a damaged header may be of; None if it is not.

    It may if its name begins so, or if its checksum fits once its name begins so.

    Args:
        header: a block of 512 bytes whose checksum is wrong.
        key: of a sample beside it.
    """
    start = f"{key}.".encode("utf-8", "surrogateescape")
    if len(start) >= NAME_BYTES:
        return None
    if not header.startswith(start) and _parsed(start + header[len(start) :]) is None:
        return None
    name = header[len(start) : NAME_BYTES].partition(b"\0")[0]
    return name.decode("utf-8", "backslashreplace").lower()


def _at(data: Content, offset: int, extended: Extended) -> Entry | Damage | Junction | int | None:
    """What stands at a block: None at the end; an int is the end of an extended header."""
    if offset >= len(data):
        return Damage(len(data), "the end-of-archive blocks are missing")
    block = data[offset : offset + BLOCK]
    if not block.strip(b"\0"):
        return _after_zeros(data, offset)
    info = _parsed(block)
    if info is None:
        return Damage(offset, "no valid header", block)
    start = offset + BLOCK
    if info.type in (tarfile.XHDTYPE, tarfile.SOLARIS_XHDTYPE, tarfile.XGLTYPE):
        content = data[start : start + info.size]
        is_read = len(content) == info.size <= MAX_EXTENDED and read_pax(
            content, extended if info.type != tarfile.XGLTYPE else Extended()
        )
        return start + _blocks(info.size) if is_read else Damage(offset, "no valid header", block)
    if info.type in (tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK):
        if start + info.size > len(data) or info.size > MAX_EXTENDED:
            return Damage(offset, "no valid header", block)
        text = data[start : start + info.size].partition(b"\0")[0]
        name = "name" if info.type == tarfile.GNUTYPE_LONGNAME else "link"
        setattr(extended, name, text.decode("utf-8", "surrogateescape"))
        return start + _blocks(info.size)
    return _entry(data, start, info, block, extended)


def _entry(
    data: Content, start: int, info: tarfile.TarInfo, block: bytes, extended: Extended
) -> Entry:
    size = info.size if extended.size is None else extended.size
    if not info.isreg() and info.type in tarfile.SUPPORTED_TYPES:
        size = 0  # as tarfile reads it: links, folders and devices have no content
    sparse = extended.sparse or info.type == tarfile.GNUTYPE_SPARSE
    is_extended = info.type == tarfile.GNUTYPE_SPARSE and block[482]
    while is_extended and start < len(data):  # further blocks of the map of a GNU sparse file
        is_extended = data[start + 504 : start + 505] == b"\1"
        start += BLOCK
    name = extended.sparse_name or extended.name or _own_name(info, block)
    link = extended.link or info.linkname
    return Entry(name.rstrip("/"), info.type, start, start + size, link, sparse)


def _own_name(info: tarfile.TarInfo, block: bytes) -> str:
    """The name in a header. GNU's headers have times where ustar's have the folder."""
    if block[MAGIC:].startswith(tarfile.GNU_MAGIC):
        own = block[:NAME_BYTES].partition(b"\0")[0]
        return own.decode("utf-8", "surrogateescape")
    return info.name


def _after_zeros(data: Content, offset: int) -> Damage | Junction | None:
    """What follows the zeros at ``offset``: None if they are the end of the archive."""
    found = find_not_zero(data, offset)
    if found < 0:
        return _check_end(data, offset)
    following = found // BLOCK * BLOCK
    is_header = _parsed(data[following : following + BLOCK]) is not None
    if is_header and following - offset >= 2 * BLOCK:
        return Junction(following)
    return Damage(offset, "data after an end-of-archive block")


def _check_end(data: Content, offset: int) -> Damage | None:
    """Two blocks of zeros end an archive, and pad it to a whole record.

    More zeros are those of a file that was allocated in advance and never written to its end.
    """
    zeros = len(data) - offset
    if zeros < BLOCK:
        return Damage(offset, "the end-of-archive blocks are cut")
    is_padded = any(len(data) % record == 0 and zeros < record + 2 * BLOCK for record in RECORDS)
    if is_padded or zeros <= MAX_PADDING:
        return None
    return Damage(offset, f"{zeros} zeros in place of data or of an archive's end")


def _resume(data: Content, damage: Damage) -> int | None:
    """Where to go on after damage: at the next valid header that is not inside of a lost file.

    The size in a damaged header is right if a header (or the archive's end) stands behind as much
    content. If not, and the content begins with a header, the lost file is a tar: what it holds
    ends at its own end-of-archive blocks.
    """
    content = damage.offset + BLOCK
    if damage.header is None:
        found = find_not_zero(data, damage.offset)
        return None if found < 0 else _next_header(data, found // BLOCK * BLOCK)
    size = _size_in(damage.header)
    if size is not None and _may_follow(data, content + _blocks(size)):
        return content + _blocks(size)
    resumed = _next_header(data, content)
    if resumed != content:
        return resumed
    end = data.find(bytes(2 * BLOCK), content)
    found = find_not_zero(data, end) if end >= 0 else -1
    return None if found < 0 else _next_header(data, found // BLOCK * BLOCK)


def _may_follow(data: Content, offset: int) -> bool:
    """Whether a member may end here: before a header, zeros, or the end of the data."""
    block = data[offset : offset + BLOCK]
    return offset <= len(data) and (not block.strip(b"\0") or _parsed(block) is not None)


def _size_in(header: bytes) -> int | None:
    """The size that a damaged header declares; None if that is no number."""
    try:
        size: int = tarfile.nti(header[SIZE_FIELD])  # type: ignore[attr-defined]
    except (tarfile.TarError, IndexError):  # the field is no number, or cut off
        return None
    return size if size >= 0 else None


def _next_header(data: Content, offset: int) -> int | None:
    """Offset of the first valid header at or after ``offset``; None if there is none."""
    place = data.find(b"ustar", offset + MAGIC)
    while place >= 0:
        start = place - MAGIC
        if start % BLOCK == 0 and _parsed(data[start : start + BLOCK]) is not None:
            return start
        place = data.find(b"ustar", place + 1)
    return None


def _parsed(block: bytes) -> tarfile.TarInfo | None:
    """A header whose checksum fits and whose size is not negative."""
    try:
        info = tarfile.TarInfo.frombuf(block, "utf-8", "surrogateescape")
    except (tarfile.TarError, ValueError):
        return None
    return info if info.size >= 0 else None  # tarfile walks backwards then (CVE-2025-8194)


def _blocks(size: int) -> int:
    """Bytes of the whole blocks that hold ``size`` bytes."""
    return -(-size // BLOCK) * BLOCK
