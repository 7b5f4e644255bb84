"""Scratch disk: where large objects are read from and built, so that they take no main memory."""

from __future__ import annotations

import errno
import hashlib
import io
import logging
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import IO, Any, cast

from pipeline.process.notice import notice
from pipeline.storage.content import Content, FileContent

log = logging.getLogger(__name__)

HELD_BYTES = 16 << 20  # an object of at most so many is held in memory
SPARE_BYTES = 1 << 30  # that stay free for others on the disk


def is_large(size: int) -> bool:
    """Whether an object of so many bytes is not held in memory."""
    return size > HELD_BYTES


def scratch_file(size: int) -> IO[bytes] | None:
    """An empty file without a name; None, with a notice, if there is no room.

    It vanishes with the process, even one that is killed. The folder is Python's for temporary
    files: that of ``TMPDIR``.

    Args:
        size: bytes that are to be written.
    """
    folder, reason = os.environ.get("TMPDIR", "/tmp"), "it has too little room"
    try:
        folder = tempfile.gettempdir()
        if shutil.disk_usage(folder).free >= size + SPARE_BYTES:
            return tempfile.TemporaryFile(dir=folder)
    except OSError as error:
        reason = str(error)
    _tell(f"no scratch disk in {folder} (TMPDIR): {reason}; shards are held in memory")
    return None


@contextmanager
def naming_scratch() -> Iterator[None]:
    """Around writes to a scratch file: an error for lack of room names the folder.

    Raises:
        OSError: the disk has filled up since ``scratch_file`` looked.
    """
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        text = f"{os.strerror(error.errno)} on the scratch disk, {tempfile.gettempdir()} (TMPDIR)"
        raise OSError(error.errno, text) from error


@cache
def _tell(line: str) -> None:
    """Once a process: the next shard finds the same."""
    log.warning("%s", line)
    notice(line)


class Spool:
    """Bytes that are written once, one behind the other, and then stored as an object.

    They are in memory while they are few, then in a scratch file.

    Attributes:
        size: bytes so far.
    """

    def __init__(self) -> None:
        self._file: IO[bytes] = io.BytesIO()
        self._may_move = True
        self._digest = hashlib.sha256()
        self.size = 0

    def write(self, piece: bytes) -> None:
        """Appends a piece.

        Raises:
            OSError: the scratch disk is full.
        """
        if self._may_move and is_large(self.size + len(piece)):
            self._move(len(piece))
        with naming_scratch():
            self._file.write(piece)
        self._digest.update(piece)
        self.size += len(piece)

    @property
    def sha256(self) -> str:
        """Of the bytes so far, in hexadecimal digits."""
        return self._digest.hexdigest()

    @property
    def path(self) -> str | None:
        """Of the scratch file with all bytes in it, in this process; None: they are in memory."""
        if isinstance(self._file, io.BytesIO):
            return None
        with naming_scratch():
            self._file.seek(0)
        return f"/dev/fd/{self._file.fileno()}"

    def getvalue(self) -> bytes:
        """All bytes, in memory."""
        if isinstance(self._file, io.BytesIO):
            return self._file.getvalue()
        with naming_scratch():
            self._file.seek(0)
        return self._file.read()

    def sink(self) -> IO[bytes]:
        """A file that appends what is written to it, for a library that writes to files."""
        return cast(IO[bytes], _Sink(self))

    def content(self, what: str) -> Content:
        """All bytes, to read: of the scratch file, or in memory."""
        if isinstance(self._file, io.BytesIO):
            return self._file.getvalue()
        with naming_scratch():
            return FileContent(self._file, what)

    def _move(self, more: int) -> None:
        """Moves what is in memory to a scratch file, where there is one."""
        assert isinstance(self._file, io.BytesIO)
        self._may_move = False
        file = scratch_file(self.size + more)
        if file is not None:
            with naming_scratch():
                file.write(self._file.getbuffer())
            self._file = file


class _Sink(io.RawIOBase):
    """The file of ``Spool.sink``."""

    def __init__(self, spool: Spool) -> None:
        self._spool = spool

    def writable(self) -> bool:
        return True

    def write(self, data: Any, /) -> int:
        piece = bytes(data)
        self._spool.write(piece)
        return len(piece)

    def tell(self) -> int:
        return self._spool.size
