"""The bytes of an object as they are read: in memory, or by ranges of a file."""

from __future__ import annotations

import hashlib
import io
import os
import re
from dataclasses import dataclass
from functools import partial
from typing import IO, Protocol

from pipeline.storage.retry import StorageError, with_retries

WINDOW = 256 << 10  # bytes that are read ahead of a small range
NOT_ZERO = re.compile(rb"[^\0]")


class Content(Protocol):
    """What can be read of an object: ``bytes`` are one, and a ``FileContent``."""

    def __len__(self) -> int: ...

    def __getitem__(self, place: slice, /) -> bytes: ...

    def find(self, wanted: bytes, start: int, /) -> int: ...


@dataclass(frozen=True, slots=True)
class Span:
    """A range of a content, which is read when it is made bytes: ``bytes(span)``."""

    content: Content
    start: int
    end: int

    def __len__(self) -> int:
        return self.end - self.start

    def __bytes__(self) -> bytes:
        return self.content[self.start : self.end]


class FileContent:
    """A file of a local disk, of which only what is asked for is in memory.

    The file stays open, so one that is replaced or removed meanwhile is still read.
    """

    def __init__(self, file: IO[bytes], what: str) -> None:
        """
        Args:
            file: open, with all of its bytes written.
            what: names the object in errors.
        """
        file.flush()
        self._file, self._what = file, what
        self._size, self._time_ns = self._state()
        self._window: tuple[int, bytes] = (0, b"")  # the last small range with what follows it

    def __len__(self) -> int:
        return self._size

    def stream(self) -> io.BufferedReader:
        """The file, to be read from its start and closed."""
        stream = os.fdopen(os.dup(self._file.fileno()), "rb")
        stream.seek(0)
        return stream

    def __getitem__(self, place: slice, /) -> bytes:
        start, end, _ = place.indices(self._size)
        if end - start > WINDOW:
            return self._read(start, end)
        if start >= end:
            return b""
        first, window = self._window_of(start, end)
        return window[start - first : end - first]

    def find(self, wanted: bytes, start: int, /) -> int:
        """As of bytes. ``wanted`` is much shorter than a window."""
        while start + len(wanted) <= self._size:
            first, window = self._window_of(start, start + len(wanted))
            found = window.find(wanted, start - first)
            if found >= 0:
                return first + found
            start = first + len(window) - len(wanted) + 1
        return -1

    def find_not_zero(self, start: int) -> int:
        """The first byte at or after ``start`` that is not 0; -1 if there is none."""
        while start < self._size:
            first, window = self._window_of(start, start + 1)
            found = NOT_ZERO.search(window, start - first)
            if found is not None:
                return first + found.start()
            start = first + len(window)
        return -1

    def _window_of(self, start: int, end: int) -> tuple[int, bytes]:
        """The first byte and the bytes of a window that holds this range."""
        first, window = self._window
        if start < first or end > first + len(window):
            first, window = start, self._read(start, min(start + WINDOW, self._size))
            self._window = (first, window)
        return first, window

    def _read(self, start: int, end: int) -> bytes:
        """
        Raises:
            StorageError: the file was written to since it was opened.
        """
        read = partial(os.pread, self._file.fileno())
        pieces = []
        while start < end:  # one call reads 2 GiB at most
            piece = with_retries(partial(read, end - start, start), what=f"read {self._what}")
            if not piece or self._state() != (self._size, self._time_ns):
                raise StorageError(f"{self._what} has changed while it was read")
            pieces.append(piece)
            start += len(piece)
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    def _state(self) -> tuple[int, int]:
        """Size, and time of the last change, of the open file."""
        status = os.fstat(self._file.fileno())
        return status.st_size, status.st_mtime_ns


def find_not_zero(data: Content, start: int) -> int:
    """The first byte at or after ``start`` that is not 0; -1 if there is none."""
    if isinstance(data, FileContent):
        return data.find_not_zero(start)
    assert isinstance(data, bytes)
    found = NOT_ZERO.search(data, start)
    return -1 if found is None else found.start()


def sha256_of(data: Content) -> str:
    """Of all bytes, in hexadecimal digits."""
    digest = hashlib.sha256()
    for start in range(0, len(data), WINDOW):
        digest.update(data[start : start + WINDOW])
    return digest.hexdigest()
