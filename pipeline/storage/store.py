"""One output or input folder, anywhere: whole objects by name, with retries and length checks."""

from __future__ import annotations

import errno
import os
import uuid
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any, ClassVar

from pipeline.storage.bucket import Bucket, open_filesystem
from pipeline.storage.local_folder import LocalFolder, Stat
from pipeline.storage.retry import ShortReadError, StorageError, with_retries
from pipeline.storage.traffic import note_traffic

LOCAL = ("file", "local")


class ChangedError(StorageError):
    """An object is not the one that was listed when the run began."""


class Store:
    """The objects below one url, by their names relative to it (``_parts/00042/...``).

    It travels to other processes by pickle; each opens its own connections. Where a test sets
    ``Store.hook``, it is called as ``hook(when, operation, name)`` with when "before" or "after",
    so that a process can be killed at any storage call.
    """

    hook: ClassVar[Callable[[str, str, str], None] | None] = None

    def __init__(self, url: str, storage_options: dict[str, Any] | None = None) -> None:
        """
        Args:
            url: a local path, or a url of any scheme that fsspec knows (s3, gs, az, memory).
            storage_options: for fsspec, e.g. endpoint_url. Never logged nor shown.

        Raises:
            ValueError: the url runs a command or chains file systems.
        """
        check_url(url)
        self.url = url.rstrip("/") or "/"
        self.storage_options = dict(storage_options or {})
        self._backend: LocalFolder | Bucket | None = None
        self._conditional: bool | None = None

    def __repr__(self) -> str:
        return f"Store({self.url!r})"

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_backend": None}

    @property
    def backend(self) -> LocalFolder | Bucket:
        if self._backend is None:
            self._backend = open_backend(self.url, self.storage_options)
        return self._backend

    @property
    def conditional(self) -> bool:
        """Whether the store lets one writer win where two put the same name if absent.

        Asked once, by putting a probe twice; without it only one driver may run at a time.
        """
        if self._conditional is None:
            name = f"_run/probe-{uuid.uuid4().hex}"
            self.put_if_absent(name, b"probe")
            if self._conditional is not False:  # put_if_absent may have found out
                self._conditional = not self.put_if_absent(name, b"second")
            self.delete(name)
        return self._conditional

    def check_reachable(self) -> None:
        """For the start of a run: asks the store something small, and is soon done with it.

        Raises:
            OSError: nobody answers there, the credentials are wrong, or there is no such bucket.
        """
        what = f"reach {self.url}"
        with_retries(self.backend.check_reachable, what=what, first=True)

    def get(self, name: str, *, listed: Stat | None = None) -> bytes:
        """The whole object, its length checked against what the store says it is.

        Args:
            name: of the object.
            listed: what a listing said of it; where given, the object must be that one, before and
                after reading.

        Raises:
            FileNotFoundError: there is no such object.
            ChangedError: it has another size or etag than was listed.
            ShortReadError: every attempt gave another length than the store's.
        """

        def attempt() -> bytes:
            expected = self.backend.stat(name)
            self._check_unchanged(name, expected, listed)
            data = self.backend.read(name)
            if len(data) != expected.size:
                raise ShortReadError(f"{name}: read {len(data)} of {expected.size} bytes")
            if listed is not None:
                self._check_unchanged(name, self.backend.stat(name), listed)
            note_traffic("in", len(data))
            return data

        return self._call("get", name, attempt)

    def put(self, name: str, data: bytes) -> None:
        """Writes or replaces the whole object; nobody ever sees a part of it."""
        self._call("put", name, lambda: self.backend.write(name, data))
        note_traffic("out", len(data))

    def put_if_absent(self, name: str, data: bytes) -> bool:
        """Writes the whole object unless one is there. Returns whether this call wrote it.

        A put whose answer was lost is tried again and then finds its own object: False means "it
        is there", not "somebody else wrote it".
        """

        def attempt() -> bool:
            try:
                guaranteed = self.backend.create(name, data)
            except FileExistsError as error:
                self._check_exists(name, error)
                return False
            if not guaranteed:
                self._conditional = False
            note_traffic("out", len(data))
            return True

        return self._call("put_if_absent", name, attempt)

    def list(self, prefix: str = "") -> dict[str, int]:
        """Sizes in bytes of all objects whose names start with ``prefix``, in byte order."""
        listed = self._call(
            "list", prefix, lambda: {name: stat.size for name, stat in self.backend.each(prefix)}
        )
        return {name: listed[name] for name in sorted(listed, key=_byte_order)}

    def stat(self, name: str) -> Stat:
        """Size and etag. Raises FileNotFoundError where there is no such object."""
        return self._call("stat", name, lambda: self.backend.stat(name))

    def exists(self, name: str) -> bool:
        try:
            self.stat(name)
        except FileNotFoundError:
            return False
        return True

    def delete(self, name: str) -> None:
        """Removes the object; one that is not there is fine."""

        def attempt() -> None:
            with suppress(FileNotFoundError):
                self.backend.remove(name)

        self._call("delete", name, attempt)

    def remove_temporaries(self, older_than_s: float = 3600.0) -> Sequence[str]:
        """Removes what local writers left that were killed at least so many seconds ago."""
        return self._call("sweep", "", lambda: self.backend.remove_temporaries(older_than_s))

    def _check_exists(self, name: str, error: FileExistsError) -> None:
        """A put was refused because the object is there: is it?

        It may have been removed since, and servers were seen to refuse where two puts met and
        neither was kept. Taken at its word, such an answer loses what was to be put.
        """
        try:
            self.backend.stat(name)
        except FileNotFoundError:
            message = "the store refused to put what exists, and it is not there"
            raise BlockingIOError(errno.EAGAIN, message, name) from error

    def _check_unchanged(self, name: str, found: Stat, listed: Stat | None) -> None:
        if listed is not None and found != listed:
            raise ChangedError(
                f"{self.url}/{name} changed since this run listed its inputs; run again to take "
                f"the new object, into another output"
            )

    def _call(self, operation: str, name: str, attempt: Callable[[], Any]) -> Any:
        if name or operation not in ("list", "sweep"):
            _check_name(name, is_prefix=operation == "list")
        hook = type(self).hook
        if hook is not None:
            hook("before", operation, name)
        result = with_retries(attempt, what=f"{operation} {self.url}/{name}")
        if hook is not None:
            hook("after", operation, name)
        return result


def check_url(url: str) -> None:
    """Refuses what runs a command (``pipe:``) and chains of file systems (``zip::s3://``)."""
    if url.startswith("pipe:"):
        raise ValueError(f"{url!r}: pipe: urls run commands and are refused; give a path or a url")
    if "::" in url:
        raise ValueError(f"{url!r}: chained urls are refused; give one path or url")


def open_backend(url: str, storage_options: dict[str, Any]) -> LocalFolder | Bucket:
    """The backend of a url. Listings are never cached: other writers are at work."""
    protocol = url.split("://", 1)[0] if "://" in url else "file"
    if protocol in LOCAL:
        return LocalFolder(local_path(url))
    filesystem = open_filesystem(protocol, storage_options)
    return Bucket(filesystem, filesystem._strip_protocol(url))


def local_path(url: str) -> str:
    """The path of a local url: with or without a scheme, or a home's tilde."""
    for protocol in LOCAL:
        url = url.removeprefix(f"{protocol}://")
    return os.path.abspath(os.path.expanduser(url))


def _check_name(name: str, *, is_prefix: bool) -> None:
    parts = name.split("/")
    if is_prefix and parts[-1] == "":
        parts = parts[:-1]
    if any(part in ("", ".", "..") for part in parts):
        raise ValueError(f"{name!r} is no object's name: it must stay below its store")


def _byte_order(name: str) -> bytes:
    return name.encode("utf-8", "surrogateescape")
