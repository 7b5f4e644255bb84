"""A folder of any store: reads and writes whole objects by name, with retries and length checks."""

from __future__ import annotations

import errno
import uuid
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any, ClassVar, TypeVar

from pipeline.process.outage import store_of
from pipeline.storage.bucket import Bucket
from pipeline.storage.content import Content
from pipeline.storage.filesystem import open_filesystem
from pipeline.storage.local_folder import LocalFolder, Stat
from pipeline.storage.retry import ShortReadError, StorageError, with_retries
from pipeline.storage.scratch import Spool
from pipeline.storage.traffic import note_traffic
from pipeline.storage.urls import LOCAL, check_url, local_path, protocol_of

Result = TypeVar("Result")


class ChangedError(StorageError):
    """An object has changed since the run listed it."""


class Store:
    """The objects below one url, by their names relative to it (``_parts/00042/...``).

    It can be pickled; each process opens its own connections. A test may set ``Store.hook``: it is
    called as ``hook(when, operation, name)`` with when "before" or "after", so that a process can
    be killed at any storage call.
    """

    hook: ClassVar[Callable[[str, str, str], None] | None] = None

    def __init__(self, url: str, storage_options: dict[str, Any] | None = None) -> None:
        """
        Args:
            url: a local path, or a url of any scheme that fsspec knows (s3, gs, az, memory).
            storage_options: for fsspec, e.g. endpoint_url. Never logged or shown.

        Raises:
            ValueError: see ``check_url``.
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
        """Whether only one of two concurrent ``put_if_absent`` calls can succeed.

        Tested once, by putting a probe twice. Without it, only one driver may run at a time.
        """
        if self._conditional is None:
            # Another driver's sweep may remove the first probe between the two puts.
            refused = self._refuses_a_second() or self._refuses_a_second()
            if self._conditional is None:  # put_if_absent sets False if it is not guaranteed
                self._conditional = refused
        return self._conditional is True

    def _refuses_a_second(self) -> bool:
        """Whether the store refuses to put a new object a second time."""
        name = f"_run/probe-{uuid.uuid4().hex}"
        self.put_if_absent(name, b"probe")
        refused = not self.put_if_absent(name, b"second")
        self.delete(name)
        return refused

    def check_reachable(self) -> None:
        """Sends the store a small request at the start of a run; gives up early.

        Raises:
            OSError: the store does not answer, the credentials are wrong, or the bucket is missing.
        """
        what = f"reach {self.url}"
        with_retries(self.backend.check_reachable, what=what, first=True)

    def check_writable(self) -> None:
        """Checks at the start of a run that it may write here, and leaves nothing behind.

        Raises:
            OSError: it may not, or ``check_reachable`` fails.
        """
        self.check_reachable()
        with_retries(self.backend.check_writable, what=f"write to {self.url}", first=True)

    def get(self, name: str, *, listed: Stat | None = None) -> bytes:
        """The whole object, in memory; else see ``open``."""
        data = self._get(name, lambda size: self.backend.read(name), listed)
        assert isinstance(data, bytes)
        return data

    def open(self, name: str, *, listed: Stat | None = None) -> Content:
        """The whole object, which takes no memory if it is large: a local file, or a copy of it.

        Its length is checked against the size that the store reports.

        Args:
            name: of the object.
            listed: its size and etag in an earlier listing. If given, the object must have these
                before and after it is read.

        Raises:
            FileNotFoundError: there is no such object.
            ChangedError: its size or etag is not the listed one.
            ShortReadError: every attempt returned another length than the store reports.
        """

        return self._get(name, lambda size: self.backend.open(name, size), listed)

    def _get(self, name: str, read: Callable[[int], Content], listed: Stat | None) -> Content:
        def attempt() -> Content:
            expected = self.backend.stat(name)
            self._check_unchanged(name, expected, listed)
            data = read(expected.size)
            if len(data) != expected.size:
                raise ShortReadError(f"{name}: read {len(data)} of {expected.size} bytes")
            if listed is not None:
                self._check_unchanged(name, self.backend.stat(name), listed)
            note_traffic("in", len(data))
            return data

        return self._call("get", name, attempt)

    def put(self, name: str, data: bytes) -> None:
        """Writes or replaces the whole object, atomically."""
        self._call("put", name, lambda: self.backend.write(name, data))
        note_traffic("out", len(data))

    def put_spooled(self, name: str, spool: Spool) -> None:
        """``put`` of what was spooled, which takes no memory if it is large."""
        self._call("put", name, lambda: self.backend.write_spooled(name, spool))
        note_traffic("out", spool.size)

    def put_if_absent(self, name: str, data: bytes) -> bool:
        """Writes the whole object unless it exists. Returns whether this call wrote it.

        False means "it exists", not "another process wrote it": if the response to a put is lost,
        the retry finds the object that the same call has written.
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
        """Name and size in bytes of all objects that start with ``prefix``, in byte order."""
        listed = self._call(
            "list", prefix, lambda: {name: stat.size for name, stat in self.backend.each(prefix)}
        )
        return {name: listed[name] for name in sorted(listed, key=_byte_order)}

    def stat(self, name: str) -> Stat:
        """Size and etag. Raises FileNotFoundError if there is no such object."""
        return self._call("stat", name, lambda: self.backend.stat(name))

    def exists(self, name: str) -> bool:
        try:
            self.stat(name)
        except FileNotFoundError:
            return False
        return True

    def delete(self, name: str) -> None:
        """Removes the object, if it exists."""

        def attempt() -> None:
            with suppress(FileNotFoundError):
                self.backend.remove(name)

        self._call("delete", name, attempt)

    def remove_temporaries(self, older_than_s: float = 3600.0) -> Sequence[str]:
        """Removes temporary files of killed local writers that are at least this old."""
        return self._call("sweep", "", lambda: self.backend.remove_temporaries(older_than_s))

    def _check_exists(self, name: str, error: FileExistsError) -> None:
        """Checks that the object really exists after a put was refused because it exists.

        It may have been removed since; and some servers refuse both of two concurrent puts. Without
        this check the data would be lost. The error that is raised is transient, so the put is
        retried.
        """
        try:
            self.backend.stat(name)
        except FileNotFoundError:
            message = "the store refused the put because the object exists, but it does not"
            raise BlockingIOError(errno.EAGAIN, message, name) from error

    def _check_unchanged(self, name: str, found: Stat, listed: Stat | None) -> None:
        if listed is not None and found != listed:
            raise ChangedError(
                f"{self.url}/{name} changed since this run listed its inputs; to edit the new "
                f"object, run again with another output"
            )

    def _call(self, operation: str, name: str, attempt: Callable[[], Result]) -> Result:
        if name or operation not in ("list", "sweep"):
            _check_name(name, is_prefix=operation == "list")
        hook = type(self).hook
        if hook is not None:
            hook("before", operation, name)
        what = f"{operation} {self.url}/{name}"
        result = with_retries(attempt, what=what, store=store_of(self.url))
        if hook is not None:
            hook("after", operation, name)
        return result


def open_backend(url: str, storage_options: dict[str, Any]) -> LocalFolder | Bucket:
    """The backend of a url."""
    protocol = protocol_of(url)
    if protocol in LOCAL:
        return LocalFolder(local_path(url))
    filesystem = open_filesystem(protocol, storage_options)
    return Bucket(filesystem, filesystem._strip_protocol(url))


def _check_name(name: str, *, is_prefix: bool) -> None:
    parts = name.split("/")
    if is_prefix and parts[-1] == "":
        parts = parts[:-1]
    if any(part in ("", ".", "..") for part in parts):
        raise ValueError(f"{name!r} is not a valid object name: it must stay below its store")


def _byte_order(name: str) -> bytes:
    return name.encode("utf-8", "surrogateescape")
