"""Reads and writes tars; of a damaged tar it reads every member that it can and says what is lost.

Python's tarfile stops early and without an error at an invalid header and at a cut between two
members. So this module checks the end itself: an archive is whole if it ends in blocks of zeros.

webdataset's iterators and writer do the work. webdataset imports torch where torch is installed, so
it is imported at its first use: code that only lists and commits starts without torch.
"""

from __future__ import annotations

import io
import tarfile
from typing import Any

BLOCK = tarfile.BLOCKSIZE
ERRORS = (tarfile.TarError, EOFError, OSError, ValueError, OverflowError)


def read_members(data: bytes) -> tuple[list[tuple[str, bytes]], str | None]:
    """All regular members that can be read.

    After damage, reading continues at the next valid header.

    Args:
        data: the bytes of a tar.

    Returns:
        (name, content) of each member in the archive's order, and the problem: None if the archive
        is whole, else a sentence that begins with "truncated:" and says where reading failed.
    """
    from webdataset.tariterators import tar_file_iterator

    segments, problem = _readable(data)
    members: list[tuple[str, bytes]] = []
    for start, end in segments:
        try:
            stream = _stream(data, start, end, whole=problem is None)
            # skip_meta=None: by default webdataset skips folders named __like_this__
            for member in tar_file_iterator(stream, skip_meta=None):
                members.append((member["fname"], member["data"]))
        except ERRORS as error:
            problem = problem or f"truncated: {type(error).__name__} in the members from {start} on"
    return members, problem


def split_at_first_dot(name: str) -> tuple[str | None, str | None]:
    """Key and suffix of a member's name, split as webdataset does; (None, None) without a dot."""
    from webdataset.tariterators import base_plus_ext

    key, suffix = base_plus_ext(name)
    return key, suffix


def tar_writer(sink: io.BytesIO) -> Any:
    """A ``webdataset.TarWriter`` whose output depends only on the samples written to it.

    Time, owner and mode are fixed. The members of a sample are sorted by suffix. Long names and
    names that are not ASCII get a PAX header.
    """
    from webdataset import TarWriter

    fixed = {"mtime": 0, "user": "overpaint", "group": "overpaint", "mode": 0o644}
    return TarWriter(sink, encoder=False, **fixed)


def _stream(data: bytes, start: int, end: int, *, whole: bool) -> io.BytesIO:
    if whole:
        return io.BytesIO(data)  # shares the bytes, copies nothing
    return io.BytesIO(data[start:end] + bytes(2 * BLOCK))


def _readable(data: bytes) -> tuple[list[tuple[int, int]], str | None]:
    """The byte ranges that hold whole members, and the first problem, if any."""
    if not data:
        return [], "truncated: the file is empty"
    segments: list[tuple[int, int]] = []
    problem: str | None = None
    start: int | None = 0
    while start is not None:
        end, stop = _walk(data, start)
        if end > start:
            segments.append((start, end))
        reason = _why_it_stopped(data, stop)
        if reason is None:
            break
        problem = problem or f"truncated: {reason} at byte {stop} of {len(data)}"
        start = _next_header(data, stop + BLOCK)
    return segments, problem


def _walk(data: bytes, start: int) -> tuple[int, int]:
    """Reads from the header at ``start``: (end of the last whole member, where reading stopped)."""
    end = stop = start
    source = io.BytesIO(data)
    source.seek(start)
    try:
        with tarfile.open(fileobj=source, mode="r:") as tar:
            while (member := tar.next()) is not None:
                tar.members = []  # type: ignore[attr-defined]  # tarfile would keep every member
                if member.issparse():  # a header of 512 bytes may claim any size
                    return end, stop
                if member.isreg() and member.offset_data + member.size > len(data):
                    return end, len(data)  # the content is cut, so nothing follows it
                if tar.offset <= stop or member.size < 0:  # CPython before 3.11.14 loops forever
                    return end, stop
                end = stop = tar.offset
            stop = max(stop, tar.offset)
    except ERRORS:
        pass
    return min(end, len(data)), stop


def _why_it_stopped(data: bytes, stop: int) -> str | None:
    """What is wrong at the byte where reading stopped; None if the archive ends there."""
    if stop >= len(data):
        return "the end-of-archive blocks are missing"
    block = data[stop : stop + BLOCK]
    if block.strip(b"\0"):
        return "no valid header"
    if len(block) < BLOCK:
        return "the end-of-archive blocks are cut"
    if data[stop:].strip(b"\0"):
        return "data after an end-of-archive block"
    return None


def _next_header(data: bytes, offset: int) -> int | None:
    """Offset of the first valid header at or after ``offset``; None if there is none."""
    for place in range(offset, len(data) - BLOCK + 1, BLOCK):
        block = data[place : place + BLOCK]
        if block[257:262] != b"ustar":  # a cheap test that rules out most content
            continue
        try:
            tarfile.TarInfo.frombuf(block, "utf-8", "surrogateescape")
        except tarfile.TarError:
            continue
        return place
    return None
