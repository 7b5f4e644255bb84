"""A prefix of a bucket as a store, through fsspec: S3, Google, Azure, memory and others.

It has the methods of a ``LocalFolder``. Names are relative, with "/" between folders. A missing
object raises FileNotFoundError; ``create`` raises FileExistsError if the object exists.
"""

from __future__ import annotations

import errno
import threading
import uuid
from collections.abc import Iterator, Sequence
from contextlib import suppress
from datetime import datetime
from typing import Any

from pipeline.storage.content import Content, FileContent
from pipeline.storage.filesystem import AZURE, GCS, HUB, S3, WEB
from pipeline.storage.local_folder import Stat
from pipeline.storage.retry import ShortReadError, StorageError
from pipeline.storage.scratch import Spool, is_large, naming_scratch, scratch_file

PIECE_BYTES = 16 << 20  # of a large object, at once
MAX_PIECES = 9_000  # of an upload


class Bucket:
    """A prefix of a bucket (or of fsspec's memory store), where each put is atomic.

    The hub (hf://) and web servers are read alike; nothing is written to them.
    """

    _memory_lock = threading.Lock()  # memory:// checks and then writes, which is not atomic

    def __init__(self, filesystem: Any, root: str) -> None:
        self.fs = filesystem
        self.root = root.rstrip("/")
        protocol = filesystem.protocol
        self.protocols = {protocol} if isinstance(protocol, str) else set(protocol)
        self._in_one_request = {"max_concurrency": 1} if self.protocols & S3 else {}

    def check_reachable(self) -> None:
        """Checks that the bucket exists, where the store has buckets."""
        bucket = self.root.partition("/")[0]
        if not self.protocols & {*S3, *GCS, *AZURE}:
            return
        try:
            self.fs.info(bucket)
        except PermissionError:
            pass  # credentials for one prefix may not read the bucket; the listing will show
        except FileNotFoundError as error:
            raise StorageError(f"there is no bucket {bucket!r}") from error

    def check_writable(self) -> None:
        """Puts an object and removes it again.

        Raises:
            PermissionError: the credentials may do one of the two not.
        """
        probe = f"_run/probe-{uuid.uuid4().hex}"
        self.write(probe, b"probe")
        with suppress(FileNotFoundError):  # another driver has swept it
            self.remove(probe)

    def _path(self, name: str) -> str:
        return f"{self.root}/{name}"

    def stat(self, name: str) -> Stat:
        if self.protocols & HUB:
            # asks for this file alone; without expand_info the client lists its folder first
            info = self.fs.info(self._path(name), expand_info=True)
        else:
            self.fs.invalidate_cache()
            info = self.fs.info(self._path(name))
        if info.get("type") == "directory":
            raise FileNotFoundError(errno.ENOENT, "not an object", name)
        if info.get("size") is None:
            raise StorageError(f"{self._path(name)}: the server does not say how long it is")
        return Stat(int(info["size"]), etag_of(info))

    def read(self, name: str) -> bytes:
        # One request for the whole object. Otherwise s3fs reads several ranges at once into a
        # zeroed buffer, where a short range leaves zeros that no length check can see.
        data: bytes = self.fs.cat_file(self._path(name), **self._in_one_request)
        return data

    def open(self, name: str, size: int) -> Content:
        """The object, of so many bytes; a large one is copied to scratch disk, if there is room."""
        file = scratch_file(size) if is_large(size) else None
        if file is None:
            return self.read(name)
        path = self._path(name)
        with naming_scratch():
            if self.protocols & WEB:  # not every server sends ranges
                self.fs.get_file(path, file)
                return FileContent(file, path)
            for start in range(0, size, PIECE_BYTES):  # gcsfs and s3fs would leave holes unseen
                end = min(start + PIECE_BYTES, size)
                piece = self.fs.cat_file(path, start=start, end=end, **self._in_one_request)
                if len(piece) != end - start:
                    raise ShortReadError(f"{name}: read {len(piece)} bytes of {end - start}")
                file.write(piece)
            return FileContent(file, path)

    def write(self, name: str, data: bytes) -> None:
        self.fs.pipe_file(self._path(name), data)

    def write_spooled(self, name: str, spool: Spool) -> None:
        # The object exists once its last piece has arrived. Of other file systems we do not know.
        if spool.path is None or not self.protocols & (S3 | GCS | AZURE):
            self.write(name, spool.getvalue())
            return
        options: dict[str, Any] = {"overwrite": True} if self.protocols & AZURE else {}
        if self.protocols & S3:  # else ten pieces of 50 MiB are in memory at once
            options = {"chunksize": piece_bytes(spool.size), "max_concurrency": 2}
        self.fs.put_file(spool.path, self._path(name), **options)

    def create(self, name: str, data: bytes) -> bool:
        """Returns whether the store guarantees that only one writer can win."""
        path = self._path(name)
        if "memory" in self.protocols:
            with self._memory_lock:
                self.fs.pipe_file(path, data, mode="create")
            return True
        if self.protocols & (S3 | GCS | AZURE):
            # adlfs has its own name for fsspec's condition.
            azure = self.protocols & AZURE
            condition = {"overwrite": False} if azure else {"mode": "create"}
            try:
                self.fs.pipe_file(path, data, **condition)
            except Exception as error:
                if _already_exists(error):
                    raise FileExistsError(errno.EEXIST, "exists", name) from error
                if not _not_implemented(error):
                    raise
            else:
                return True
        if self.fs.exists(path):
            raise FileExistsError(errno.EEXIST, "exists", name)
        self.fs.pipe_file(path, data)
        return False

    def each(self, prefix: str, *, recursive: bool = True) -> Iterator[tuple[str, Stat]]:
        """Name and stat of every object whose name starts with the prefix.

        Args:
            prefix: of names, e.g. "_parts/".
            recursive: also objects in subfolders of the prefix's folder.
        """
        if self.protocols & S3 and not self.fs.version_aware:
            yield from self._each_of_s3(prefix, recursive)
            return
        if self.protocols & WEB:
            raise ValueError(
                f"{self.root}: a web server lists no folders; name its tars one by one, as in "
                f"{self.root}/{{00000..00012}}.tar"
            )
        self.fs.invalidate_cache()
        folder = prefix.rpartition("/")[0]
        start = f"{self.root}/{folder}" if folder else self.root
        found = self.fs.find(start, maxdepth=None if recursive else 1, detail=True)
        for path, info in found.items():
            name = path[len(self.root) + 1 :]
            is_below = path.startswith(self.root + "/") and name.startswith(prefix)
            if is_below and info.get("type") != "directory":
                yield name, Stat(int(info["size"]), etag_of(info))

    def _each_of_s3(self, prefix: str, recursive: bool) -> Iterator[tuple[str, Stat]]:
        """Lists page by page. s3fs's own ``find`` needs 1 GB of memory for a million objects."""
        bucket, _, folder = self.root.partition("/")
        start = f"{folder}/" if folder else ""
        request = {"Bucket": bucket, "Prefix": start + prefix, **self.fs.req_kw}
        if not recursive:
            request["Delimiter"] = "/"
        while True:
            page = self.fs.call_s3("list_objects_v2", **request)
            for found in page.get("Contents", ()):
                name = found["Key"][len(start) :]
                if name and not name.endswith("/"):  # some tools put such an object for a folder
                    yield name, Stat(int(found["Size"]), etag_of(found))
            if not page.get("IsTruncated"):
                return
            request["ContinuationToken"] = page["NextContinuationToken"]

    def remove(self, name: str) -> None:
        self.fs.rm_file(self._path(name))

    def remove_temporaries(self, older_than_s: float) -> Sequence[str]:
        return ()  # a put to a bucket leaves no temporary object


def piece_bytes(size: int) -> int:
    """Bytes of a piece of an upload: S3 takes at most 10,000 pieces."""
    return max(PIECE_BYTES, -(-size // MAX_PIECES))


def etag_of(info: dict[str, Any]) -> str | None:
    """The etag in an object's info: the same value from a listing and from a single request."""
    for name in ("ETag", "etag", "md5Hash", "content_md5", "blob_id", "created"):
        value = info.get(name)
        if isinstance(value, datetime):  # memory:// gives seconds in a listing, else a datetime
            value = value.timestamp()
        if value is not None:
            return str(value).strip('"')
    return None


def _already_exists(error: BaseException) -> bool:
    names = {kind.__name__ for kind in type(error).__mro__}
    if names & {"FileExistsError", "ResourceExistsError"}:
        return True
    # s3fs raises FileExistsError only if the server's response has a "Condition" field.
    response = getattr(error.__cause__ or error, "response", None)
    code = response.get("Error", {}).get("Code") if isinstance(response, dict) else None
    return code in ("PreconditionFailed", "412") or str(getattr(error, "code", "")) == "412"


def _not_implemented(error: BaseException) -> bool:
    response = getattr(error.__cause__ or error, "response", None)
    code = response.get("Error", {}).get("Code") if isinstance(response, dict) else None
    return code in ("NotImplemented", "501") or isinstance(error, NotImplementedError)
