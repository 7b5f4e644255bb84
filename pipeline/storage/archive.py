"""The members of a tar that may be damaged: everything readable, and whether that was everything.

Python's tarfile ends early and in silence at a header that it cannot read and at a cut between two
members, so the end is checked here: an archive is whole if it stops at its blocks of zeros.

webdataset's iterators and writer do the work. The library loads torch where that is installed, so
it is imported at its first use: what lists and commits starts without torch.
"""

from __future__ import annotations

import io
import tarfile
from typing import Any

BLOCK = tarfile.BLOCKSIZE
ERRORS = (tarfile.TarError, EOFError, OSError, ValueError, OverflowError)


def read_members(data: bytes) -> tuple[list[tuple[str, bytes]], str | None]:
    """All regular members that can be read.

    Args:
        data: a whole tar.

    Returns:
        (name, content) in the archive's order, and None if the archive is whole, else a sentence
        that begins with "truncated:" and says from where on it could not be read. Reading goes on
        at the next header that is valid.
    """
    from webdataset.tariterators import tar_file_iterator

    segments, problem = _readable(data)
    members: list[tuple[str, bytes]] = []
    for start, end in segments:
        try:
            stream = _stream(data, start, end, whole=problem is None)
            # webdataset leaves out folders called __so__, which is no reason for a lost edit
            for member in tar_file_iterator(stream, skip_meta=None):
                members.append((member["fname"], member["data"]))
        except ERRORS as error:
            problem = problem or f"truncated: {type(error).__name__} in the members from {start} on"
    return members, problem


def split_at_first_dot(name: str) -> tuple[str | None, str | None]:
    """Key and suffix of a member's name as webdataset has them; None, None for no sample's."""
    from webdataset.tariterators import base_plus_ext

    key, suffix = base_plus_ext(name)
    return key, suffix


def tar_writer(sink: io.BytesIO) -> Any:
    """A ``webdataset.TarWriter`` whose bytes depend on what is written alone.

    Fixed time, owner and mode; members of a sample are sorted by suffix; names that are long or
    not ASCII get a PAX header.
    """
    from webdataset import TarWriter

    fixed = {"mtime": 0, "user": "overpaint", "group": "overpaint", "mode": 0o644}
    return TarWriter(sink, encoder=False, **fixed)


def _stream(data: bytes, start: int, end: int, *, whole: bool) -> io.BytesIO:
    if whole:
        return io.BytesIO(data)  # shares the bytes, copies nothing
    return io.BytesIO(data[start:end] + bytes(2 * BLOCK))


def _readable(data: bytes) -> tuple[list[tuple[int, int]], str | None]:
    """The byte ranges that hold whole members, and the first thing that is wrong, if any."""
    if not data:
        return [], "truncated: the file is empty"
    segments: list[tuple[int, int]] = []
    problem: str | None = None
    start: int | None = 0
    while start is not None:
        end, stop = _walk(data, start)
        if end > start:
            segments.append((start, end))
        rest = _rest(data, stop)
        if rest is None:
            break
        problem = problem or f"truncated: {rest} at byte {stop} of {len(data)}"
        start = _next_header(data, stop + BLOCK)
    return segments, problem


def _walk(data: bytes, start: int) -> tuple[int, int]:
    """(end of the last whole member, where reading stopped), from a header on."""
    end = stop = start
    source = io.BytesIO(data)
    source.seek(start)
    try:
        with tarfile.open(fileobj=source, mode="r:") as tar:
            while (member := tar.next()) is not None:
                tar.members = []  # type: ignore[attr-defined]  # it would keep all of them
                if member.issparse():  # 512 bytes may stand for as many as the archive has
                    return end, stop
                if member.isreg() and member.offset_data + member.size > len(data):
                    return end, len(data)  # the content is cut: nothing can follow it
                if tar.offset <= stop or member.size < 0:  # CPython before 3.11.14 would loop
                    return end, stop
                end = stop = tar.offset
            stop = max(stop, tar.offset)
    except ERRORS:
        pass
    return min(end, len(data)), stop


def _rest(data: bytes, stop: int) -> str | None:
    """What is wrong with everything from where reading stopped; None if it is the archive's end."""
    if stop >= len(data):
        return "the end-of-archive blocks are missing"
    block = data[stop : stop + BLOCK]
    if block.strip(b"\0"):
        return "no valid header"
    if len(block) < BLOCK:
        return "the end-of-archive blocks are cut"
    if data[stop:].strip(b"\0"):
        return "an end-of-archive block, and data after it,"
    return None


def _next_header(data: bytes, offset: int) -> int | None:
    """Where the next block begins that is a valid header, from ``offset`` on."""
    for place in range(offset, len(data) - BLOCK + 1, BLOCK):
        block = data[place : place + BLOCK]
        if block[257:262] != b"ustar":  # cheap, and no content without it is taken for a header
            continue
        try:
            tarfile.TarInfo.frombuf(block, "utf-8", "surrogateescape")
        except tarfile.TarError:
            continue
        return place
    return None
