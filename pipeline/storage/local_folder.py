"""A folder of a local or mounted file system as a store of whole objects.

Names are relative, with "/" between folders. A missing object raises FileNotFoundError; ``create``
raises FileExistsError if the object exists. Nothing is retried here.
"""

from __future__ import annotations

import errno
import os
import re
import stat
import time
import uuid
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from pipeline.storage.content import Content, FileContent
from pipeline.storage.retry import StorageError
from pipeline.storage.scratch import Spool, is_large

# No object may have such a name; it marks the leftovers of a killed writer.
TEMPORARY = re.compile(r"\.overpaint-[0-9a-f]{32}\.tmp")

COPIED_BYTES = 1 << 20  # at once

# Errors of link(2) where the file system has no hard links.
NO_LINKS = {errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK}


@dataclass(frozen=True, slots=True)  # a run may hold a million of them
class Stat:
    """Size and etag of an object. Where the store has an etag, it changes with the content."""

    size: int
    etag: str | None


class LocalFolder:
    """A folder of a local (or mounted) file system. Each write is atomic.

    Attributes:
        linked_folders: names of folders that are links, found while listing and not followed.
    """

    def __init__(self, path: str) -> None:
        self.root = Path(path)
        self._root = str(self.root)
        self.linked_folders: list[str] = []

    def check_reachable(self) -> None:
        """Checks that nothing else stands where the first write would create the folder.

        Raises:
            StorageError: a file does, or a link to nothing.
        """
        place = self._existing()
        if not place.is_dir():
            raise StorageError(f"{place} is not a folder")

    def check_writable(self) -> None:
        """Checks that objects can be written, without writing any.

        Raises:
            StorageError: this process may not write there, or the file system is read-only.
        """
        self.check_reachable()
        inside = [self.root / name for name in ("_run", "_parts")]
        for folder in [self._existing(), *filter(os.path.isdir, inside)]:
            if not os.access(folder, os.W_OK | os.X_OK):
                read_only = os.statvfs(folder).f_flag & os.ST_RDONLY
                raise StorageError(
                    f"{folder} is on a read-only file system"
                    if read_only
                    else f"no permission to write in {folder}"
                )

    def _existing(self) -> Path:
        """The folder itself, or the nearest of its parents that exists."""
        place = Path(os.path.abspath(self.root))
        while not os.path.lexists(place):
            place = place.parent
        return place

    def stat(self, name: str) -> Stat:
        status = os.stat(self._path(name))
        if not stat.S_ISREG(status.st_mode):
            raise FileNotFoundError(errno.ENOENT, "not a file", name)
        return _stat(status)

    def read(self, name: str) -> bytes:
        with open(self._path(name), "rb") as file:
            return file.read()

    def open(self, name: str, size: int) -> Content:
        """The object, of so many bytes; a large one stays on the disk."""
        return (
            FileContent(open(self._path(name), "rb"), name) if is_large(size) else self.read(name)
        )

    def _path(self, name: str) -> str:
        """``root / name`` as a text: pathlib takes longer than the reading of a small image."""
        return os.path.join(self._root, name)

    def write(self, name: str, data: bytes) -> None:
        self._replace(name, [data])

    def _replace(self, name: str, pieces: Iterable[bytes]) -> None:
        temporary = self._write_temporary(name, pieces)
        with _wanted(name):
            os.replace(temporary, self.root / name)
        _sync_folder(temporary.parent)

    def write_spooled(self, name: str, spool: Spool) -> None:
        if spool.path is None:
            self.write(name, spool.getvalue())
            return
        with open(spool.path, "rb") as pieces:
            self._replace(name, iter(partial(pieces.read, COPIED_BYTES), b""))

    def create(self, name: str, data: bytes) -> bool:
        """Returns whether the store guarantees that only one writer can win (hard links)."""
        temporary = self._write_temporary(name, [data])
        try:
            with _wanted(name):
                os.link(temporary, self.root / name)
        except OSError as error:
            if error.errno not in NO_LINKS:
                raise
            if (self.root / name).exists():
                raise FileExistsError(errno.EEXIST, "exists", name) from error
            with _wanted(name):
                os.replace(temporary, self.root / name)
            return False
        finally:
            temporary.unlink(missing_ok=True)
            _sync_folder(temporary.parent)
        return True

    def each(self, prefix: str, *, recursive: bool = True) -> Iterator[tuple[str, Stat]]:
        """Name and stat of every object whose name starts with the prefix; see ``Bucket.each``."""
        for name, status in self._files(prefix, recursive):
            if not _is_temporary(name):
                yield name, _stat(status)

    def remove(self, name: str) -> None:
        (self.root / name).unlink()
        for folder in (self.root / name).relative_to(self.root).parents:
            if str(folder) == ".":
                break
            try:
                (self.root / folder).rmdir()  # a store has no empty folders
            except OSError:
                break

    def remove_temporaries(self, older_than_s: float) -> Sequence[str]:
        """Removes files that killed writers left. Young ones stay: their writer may be alive."""
        now = time.time()
        stale = [
            name
            for name, status in self._files("")
            if _is_temporary(name) and now - status.st_mtime >= older_than_s
        ]
        for name in stale:
            (self.root / name).unlink(missing_ok=True)
        return stale

    def _write_temporary(self, name: str, pieces: Iterable[bytes]) -> Path:
        folder = (self.root / name).parent
        temporary = folder / f".overpaint-{uuid.uuid4().hex}.tmp"
        for _ in range(10):  # another writer's ``remove`` may delete the empty folder
            folder.mkdir(parents=True, exist_ok=True)
            try:
                with open(temporary, "xb") as file:
                    file.writelines(pieces)
                    file.flush()
                    os.fsync(file.fileno())
                return temporary
            except FileNotFoundError:
                continue
            except BaseException:
                temporary.unlink(missing_ok=True)
                raise
        raise BlockingIOError(errno.EAGAIN, "the folder keeps vanishing", str(folder))

    def _files(self, prefix: str, recursive: bool = True) -> Iterator[tuple[str, os.stat_result]]:
        """Name and status of every file whose name starts with the prefix."""
        folders = [prefix.rpartition("/")[0]]
        while folders:
            folder = folders.pop()
            try:
                entries = sorted(os.scandir(self.root / folder), key=lambda entry: entry.name)
            except (FileNotFoundError, NotADirectoryError):
                continue
            for entry in entries:
                name = f"{folder}/{entry.name}" if folder else entry.name
                if entry.is_dir(follow_symlinks=False):
                    if recursive and (name.startswith(prefix) or prefix.startswith(name + "/")):
                        folders.append(name)
                elif entry.is_dir():
                    self.linked_folders.append(name)
                elif name.startswith(prefix) and entry.is_file():
                    try:
                        status = entry.stat()
                    except FileNotFoundError:  # removed meanwhile
                        continue
                    yield name, status


@contextmanager
def _wanted(name: str) -> Iterator[None]:
    """Makes a temporary file that is gone a transient error: the object is written again.

    Another host, whose clock is ahead of this one's, may take a young file for a leftover.
    """
    try:
        yield
    except FileNotFoundError as error:
        raise BlockingIOError(errno.EAGAIN, "its temporary file is gone", name) from error


def _stat(status: os.stat_result) -> Stat:
    return Stat(status.st_size, f"mtime-{status.st_mtime_ns}")


def _is_temporary(name: str) -> bool:
    return TEMPORARY.fullmatch(name.rpartition("/")[2]) is not None


def _sync_folder(folder: Path) -> None:
    """Makes a new name survive a power cut, on file systems that can sync a folder."""
    try:
        descriptor = os.open(folder, os.O_RDONLY)
    except OSError:
        return
    try:
        os.fsync(descriptor)
    except OSError:
        pass
    finally:
        os.close(descriptor)
