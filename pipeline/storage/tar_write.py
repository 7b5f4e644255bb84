"""Writes tars of samples, fast, to the bytes of a ``webdataset.TarWriter`` with fixed times.

webdataset and tarfile take 40 us for each header, which is most of the time that a tar of small
images takes, and webdataset imports torch. Headers differ in name, size and checksum alone, so
these are filled into a header that tarfile has made; what does not fit into it (long names, names
that are not ASCII) is left to tarfile.
"""

from __future__ import annotations

import tarfile
from collections.abc import Mapping

from pipeline.storage.content import Span
from pipeline.storage.scratch import Spool

SHORT = 100  # bytes: longer names need a second field or a PAX header
LARGE = 8**11  # bytes: a larger size is not written in octal digits
NAME, SIZE, CHECKSUM = slice(0, 100), slice(124, 136), slice(148, 156)  # in a header


class SampleTar:
    """A tar that is being written. Its bytes depend on the samples alone: time, owner and mode are
    fixed.
    """

    def __init__(self) -> None:
        self._spool = Spool()

    def add(self, key: str, members: Mapping[str, bytes | Span]) -> None:
        """Adds the files of a sample, ``<key>.<suffix>``, sorted by suffix."""
        for suffix in sorted(members):
            data = bytes(members[suffix])
            self._spool.write(header(f"{key}.{suffix}", len(data)))
            self._spool.write(data)
            self._spool.write(bytes(-len(data) % tarfile.BLOCKSIZE))

    def getvalue(self) -> bytes:
        """The tar so far with its end, in memory."""
        return self._spool.getvalue() + self._end()

    def finished(self) -> Spool:
        """The whole tar with its end. Nothing is added any more."""
        self._spool.write(self._end())
        return self._spool

    def _end(self) -> bytes:
        """Two blocks of zeros, filled up to a record."""
        end = 2 * tarfile.BLOCKSIZE
        return bytes(end + -(self._spool.size + end) % tarfile.RECORDSIZE)


def header(name: str, size: int) -> bytes:
    """The header of a file, as tarfile writes it."""
    if not name.isascii() or len(name) > SHORT or size >= LARGE:
        return _made_by_tarfile(name, size)
    block = bytearray(_TEMPLATE)
    block[NAME] = name.encode().ljust(SHORT, b"\0")
    block[SIZE] = b"%011o\0" % size
    block[CHECKSUM] = b" " * 8
    block[CHECKSUM] = b"%06o\0 " % sum(block)
    return bytes(block)


def _made_by_tarfile(name: str, size: int) -> bytes:
    info = tarfile.TarInfo(name)
    info.size, info.mtime, info.mode = size, 0, 0o644
    info.uname = info.gname = "overpaint"
    return info.tobuf(tarfile.PAX_FORMAT, "utf-8", "surrogateescape")


_TEMPLATE = _made_by_tarfile("x", 0)
