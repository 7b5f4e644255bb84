"""A prefix of a bucket, through fsspec: S3, Google, Azure, memory, and what else fsspec knows.

The same primitives as a ``LocalFolder``: names are relative, with "/" between folders; an object
that is not there raises FileNotFoundError, one that is FileExistsError from ``create``.
"""

from __future__ import annotations

import errno
import threading
from collections.abc import Sequence
from datetime import datetime
from typing import Any

import fsspec

from pipeline.storage.local_folder import Stat
from pipeline.storage.retry import StorageError

# Protocols, as fsspec's file systems name themselves.
S3 = {"s3", "s3a"}
GCS = {"gs", "gcs"}
AZURE = {"az", "abfs"}


def open_filesystem(protocol: str, storage_options: dict[str, Any]) -> Any:
    """fsspec's file system. Listings are never cached: other writers are at work.

    s3fs retries what botocore has retried; beneath ``with_retries`` a store that is away would be
    asked 150 times. Here botocore asks twice, so that one page of a long listing does not cost the
    listing, and s3fs once. ``config_kwargs`` of the options come first, timeouts among them.
    """
    options = {"use_listings_cache": False, **storage_options}
    if protocol not in S3:
        return fsspec.filesystem(protocol, **options)
    options["config_kwargs"] = {
        "retries": {"max_attempts": 1},  # after the first
        **options.get("config_kwargs", {}),
    }
    filesystem = fsspec.filesystem(protocol, **options)
    filesystem.retries = 1
    return filesystem


class Bucket:
    """A prefix of a bucket (or of fsspec's memory store), where a put is atomic by itself."""

    _memory_lock = threading.Lock()  # memory:// checks and writes in two steps

    def __init__(self, filesystem: Any, root: str) -> None:
        self.fs = filesystem
        self.root = root.rstrip("/")
        protocol = filesystem.protocol
        self.protocols = {protocol} if isinstance(protocol, str) else set(protocol)

    def check_reachable(self) -> None:
        """Asks for the bucket itself, where the store has buckets."""
        bucket = self.root.partition("/")[0]
        if not self.protocols & {*S3, *GCS, *AZURE}:
            return
        try:
            self.fs.info(bucket)
        except PermissionError:
            pass  # credentials of one prefix may not ask for the bucket; a listing will tell
        except FileNotFoundError as error:
            raise StorageError(f"there is no bucket {bucket!r}") from error

    def _path(self, name: str) -> str:
        return f"{self.root}/{name}"

    def stat(self, name: str) -> Stat:
        self.fs.invalidate_cache()
        info = self.fs.info(self._path(name))
        if info.get("type") == "directory":
            raise FileNotFoundError(errno.ENOENT, "not an object", name)
        return Stat(int(info["size"]), etag_of(info))

    def read(self, name: str) -> bytes:
        # One request for the whole object. s3fs would otherwise read ranges side by side into a
        # zeroed buffer, where a range cut short leaves zeros that no length check can see.
        options = {"max_concurrency": 1} if self.protocols & S3 else {}
        return self.fs.cat_file(self._path(name), **options)

    def write(self, name: str, data: bytes) -> None:
        self.fs.pipe_file(self._path(name), data)

    def create(self, name: str, data: bytes) -> bool:
        """Returns whether the store guarantees that only one writer can win."""
        path = self._path(name)
        if "memory" in self.protocols:
            with self._memory_lock:
                self.fs.pipe_file(path, data, mode="create")
            return True
        if self.protocols & (S3 | GCS | AZURE):
            # adlfs knows the condition by another name than fsspec's.
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

    def list(self, prefix: str) -> dict[str, int]:
        self.fs.invalidate_cache()
        folder = prefix.rpartition("/")[0]
        start = f"{self.root}/{folder}" if folder else self.root
        found = self.fs.find(start, detail=True)
        names = {
            path[len(self.root) + 1 :]: int(info["size"])
            for path, info in found.items()
            if info.get("type") != "directory" and path.startswith(self.root + "/")
        }
        return {name: size for name, size in names.items() if name.startswith(prefix)}

    def remove(self, name: str) -> None:
        self.fs.rm_file(self._path(name))

    def remove_temporaries(self, older_than_s: float) -> Sequence[str]:
        return ()  # a bucket's put leaves nothing that could be listed


def etag_of(info: dict[str, Any]) -> str | None:
    """The same for an object, whether a listing or a request for it alone gave the mapping."""
    for name in ("ETag", "etag", "md5Hash", "content_md5", "created"):
        value = info.get(name)
        if isinstance(value, datetime):  # memory:// lists seconds, and tells a time when asked
            value = value.timestamp()
        if value is not None:
            return str(value).strip('"')
    return None


def _already_exists(error: BaseException) -> bool:
    names = {kind.__name__ for kind in type(error).__mro__}
    if names & {"FileExistsError", "ResourceExistsError"}:
        return True
    # s3fs names FileExistsError only where the server's answer has a "Condition" field.
    response = getattr(error.__cause__ or error, "response", None)
    code = response.get("Error", {}).get("Code") if isinstance(response, dict) else None
    return code in ("PreconditionFailed", "412") or str(getattr(error, "code", "")) == "412"


def _not_implemented(error: BaseException) -> bool:
    response = getattr(error.__cause__ or error, "response", None)
    code = response.get("Error", {}).get("Code") if isinstance(response, dict) else None
    return code in ("NotImplemented", "501") or isinstance(error, NotImplementedError)
