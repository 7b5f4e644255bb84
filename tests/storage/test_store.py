"""A store writes whole objects, reads them to the last byte, and retries transient errors."""

from __future__ import annotations

import errno
import os
import pickle
import threading
import time
import uuid
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from pipeline.storage import retry
from pipeline.storage.layout import sweep
from pipeline.storage.local_folder import LocalFolder, Stat
from pipeline.storage.retry import ShortReadError, StorageError
from pipeline.storage.store import ChangedError, Store


@pytest.fixture(params=["local", "memory"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Store:
    if request.param == "local":
        return Store(str(tmp_path / "out"))
    return Store(f"memory://{uuid.uuid4().hex}/out")


@pytest.fixture(autouse=True)
def _no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(time, "sleep", lambda seconds: None)


class Flaky(LocalFolder):
    """A local folder whose ``stat`` first raises the errors of a list."""

    def __init__(self, path: str, errors: list[BaseException]) -> None:
        super().__init__(path)
        self.errors = errors

    def stat(self, name: str) -> Stat:
        if self.errors:
            raise self.errors.pop(0)
        return super().stat(name)


def flaky(path: Path, errors: list[BaseException]) -> Store:
    store = Store(str(path))
    store._backend = Flaky(str(path), errors)
    return store


def test_get_returns_what_was_put(store: Store) -> None:
    """A put replaces the object; an object may be empty."""
    store.put("a/b.bin", b"first")
    store.put("a/b.bin", b"second")
    store.put("empty", b"")
    assert store.get("a/b.bin") == b"second"
    assert store.get("empty") == b""
    assert store.exists("a/b.bin")
    assert not store.exists("a")


def test_listing_is_in_byte_order_with_sizes(store: Store) -> None:
    """Names with the prefix are sorted by their bytes, whatever the store's own order."""
    names = ["b.tar", "a/z", "a/_", "a.tar", "Z", "ä", "a/sub/x"]
    for size, name in enumerate(names):
        store.put(name, b"x" * size)
    assert list(store.list()) == sorted(names, key=str.encode)
    assert store.list()["a.tar"] == 3
    assert list(store.list("a/")) == ["a/_", "a/sub/x", "a/z"]
    assert list(store.list("a")) == ["a.tar", "a/_", "a/sub/x", "a/z"]
    assert store.list("nothing/") == {}


def test_put_if_absent_keeps_the_first_object(store: Store) -> None:
    """A second put of the same name writes nothing and returns False."""
    assert store.put_if_absent("x/part", b"first")
    assert not store.put_if_absent("x/part", b"second")
    assert store.get("x/part") == b"first"
    assert store.conditional
    assert not [name for name in store.list() if name.startswith("_run")]


def test_one_of_many_writers_wins(store: Store) -> None:
    """Of sixteen concurrent writers, one is told that it wrote, and its bytes are stored."""
    start = threading.Barrier(16)

    def write(number: int) -> bool:
        start.wait()
        return store.put_if_absent("part", f"{number}".encode() * 1000)

    with ThreadPoolExecutor(16) as pool:
        won = list(pool.map(write, range(16)))
    assert won.count(True) == 1
    assert store.get("part") == f"{won.index(True)}".encode() * 1000


def test_deleting_a_missing_object_is_no_error(store: Store) -> None:
    """Two deletes of one object leave the store empty."""
    store.put("a/b", b"x")
    store.delete("a/b")
    store.delete("a/b")
    assert store.list() == {}
    with pytest.raises(FileNotFoundError):
        store.get("a/b")


@pytest.mark.parametrize("name", ["../x", "/etc/passwd", "a//b", "a/./b", "", "a/../../b"])
def test_names_that_leave_the_store_are_refused(store: Store, name: str) -> None:
    """Such a name is refused before any file is touched."""
    with pytest.raises(ValueError, match="below its store"):
        store.put(name, b"x")


@pytest.mark.parametrize("url", ["pipe:cat /etc/passwd", "simplecache::s3://b/x"])
def test_commands_and_chains_are_refused(url: str) -> None:
    """No url may run a program or chain file systems."""
    with pytest.raises(ValueError, match="refused"):
        Store(url)


def test_storage_options_are_pickled_but_not_shown() -> None:
    """The repr of a store holds no credentials; its pickle does."""
    store = Store("s3://bucket/out", {"key": "AKIA", "secret": "hush"})
    assert "hush" not in repr(store)
    assert pickle.loads(pickle.dumps(store)).storage_options["secret"] == "hush"


def test_temporary_files_are_not_listed_and_old_ones_are_swept(tmp_path: Path) -> None:
    """Young temporary files and files with other names stay."""
    store = Store(str(tmp_path))
    store.put("a/x", b"1")
    stale = tmp_path / "a" / f".overpaint-{uuid.uuid4().hex}.tmp"
    fresh = tmp_path / "a" / f".overpaint-{uuid.uuid4().hex}.tmp"
    mine = tmp_path / "a" / ".overpaint-notes.tmp"
    for path in (stale, fresh, mine):
        path.write_bytes(b"half")
    os.utime(stale, (time.time() - 7200,) * 2)
    assert list(store.list()) == ["a/.overpaint-notes.tmp", "a/x"]
    assert store.remove_temporaries(3600) == [f"a/{stale.name}"]
    assert fresh.exists()
    assert mine.exists()


@pytest.mark.parametrize("links", [True, False], ids=["links", "no links"])
def test_a_temporary_file_that_is_swept_too_early_is_written_again(
    links: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As by a host whose clock is hours ahead, before each call that gives a file its name."""
    store = Store(str(tmp_path))
    swept: list[Path] = []

    def sweeping(call: Callable[..., None], source: Path, target: Path) -> None:
        if not links and call is link:
            raise OSError(errno.EPERM, "no links here")
        if target not in swept:
            swept.append(target)
            assert Store(str(tmp_path)).remove_temporaries(older_than_s=-7200)
        call(source, target)

    link, replace = os.link, os.replace
    monkeypatch.setattr(os, "link", partial(sweeping, link))
    monkeypatch.setattr(os, "replace", partial(sweeping, replace))
    store.put("a/put", b"1")
    assert store.put_if_absent("a/absent", b"2")
    assert [store.get(name) for name in ("a/put", "a/absent")] == [b"1", b"2"]
    assert [target.name for target in swept] == ["put", "absent"]
    assert not list(tmp_path.rglob("*.tmp"))


def test_a_probe_that_another_driver_sweeps_is_put_again(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else a driver that starts while another one ends would say that only one may run."""
    swept: list[str] = []

    def sweep_once(when: str, operation: str, name: str) -> None:
        if (when, operation, swept) == ("after", "put_if_absent", []):
            swept.append(name)
            assert sweep(store) == [name]

    monkeypatch.setattr(Store, "hook", staticmethod(sweep_once))
    assert store.conditional
    assert swept
    assert store.list() == {}


def test_a_failed_local_write_leaves_no_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If the disk fills up, neither the object nor a temporary file is left."""
    store = Store(str(tmp_path))

    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "no space left")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="no space"):
        store.put("a", b"x")
    assert list(tmp_path.iterdir()) == []


def test_a_folder_without_hard_links_is_not_conditional(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Such a file system still writes, and ``conditional`` is False."""

    def refuse(*_: Any) -> None:
        raise OSError(errno.EPERM, "no links here")

    monkeypatch.setattr(os, "link", refuse)
    store = Store(str(tmp_path))
    assert store.put_if_absent("a", b"1")
    assert not store.put_if_absent("a", b"2")
    assert store.get("a") == b"1"
    assert not store.conditional


def test_transient_errors_are_retried(tmp_path: Path) -> None:
    """A busy server, a reset connection and a timeout are followed by success."""
    errors: list[BaseException] = [
        OSError(errno.EBUSY, "SlowDown"),
        ConnectionResetError(),
        TimeoutError(),
    ]
    store = flaky(tmp_path, errors)
    store.put("a", b"x")
    assert store.get("a") == b"x"
    assert not errors


@pytest.mark.parametrize("error", [PermissionError("wrong key"), OSError(errno.ENOSPC, "full")])
def test_permanent_errors_are_not_retried(tmp_path: Path, error: OSError) -> None:
    """Wrong credentials and a full disk are raised at the first attempt."""
    errors: list[BaseException] = [error, error]
    with pytest.raises(type(error)):
        flaky(tmp_path, errors).get("a")
    assert len(errors) == 1


def test_the_number_of_retries_is_limited(tmp_path: Path) -> None:
    """A store that stays busy ends the call with its own error."""
    errors: list[BaseException] = [OSError(errno.EBUSY, "busy")] * 50
    with pytest.raises(OSError, match="busy"):
        flaky(tmp_path, errors).get("a")
    assert len(errors) == 50 - retry.ATTEMPTS


def test_the_first_calls_of_a_run_give_up_early_if_nothing_answers() -> None:
    """Later calls, and first calls that get an error response, have all attempts."""

    class EndpointConnectionError(OSError):
        """Has the name of botocore's error."""

    def num_calls(error: OSError, *, first: bool) -> int:
        made = []

        def call() -> None:
            made.append(error)
            raise error

        with pytest.raises(OSError, match="away"):
            retry.with_retries(call, what="try", first=first)
        return len(made)

    away, busy = EndpointConnectionError("away"), OSError(errno.EBUSY, "away")
    assert num_calls(away, first=True) == retry.FIRST_ATTEMPTS
    assert num_calls(away, first=False) == retry.ATTEMPTS
    assert num_calls(busy, first=True) == retry.ATTEMPTS


def test_slow_attempts_are_fewer(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every call gets three attempts; after a minute no further attempt starts."""
    clock = [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: clock[0])

    def num_calls(takes_s: float) -> int:
        made = []

        def times_out() -> None:
            clock[0] += takes_s
            made.append(clock[0])
            raise TimeoutError("too slow")

        with pytest.raises(OSError, match="too slow"):
            retry.with_retries(times_out, what="try")
        return len(made)

    assert [num_calls(takes_s) for takes_s in (1, 15, 25, 200)] == [retry.ATTEMPTS, 5, 3, 3]


@pytest.mark.parametrize(
    ("code", "transient"), [("RequestTimeout", True), ("BadDigest", True), ("InvalidPart", False)]
)
def test_some_errors_of_status_400_are_transient(code: str, transient: bool) -> None:
    """S3 also answers 400 if a body arrived too slowly or damaged."""
    error = OSError(errno.EINVAL, "as s3fs raises it")
    error.__cause__ = RuntimeError()
    error.__cause__.response = {  # type: ignore[attr-defined]
        "ResponseMetadata": {"HTTPStatusCode": 400},
        "Error": {"Code": code},
    }
    assert retry.is_transient(error) is transient


def test_errors_name_the_operation_and_the_object(tmp_path: Path) -> None:
    """The store's own message names neither."""
    errors: list[BaseException] = [OSError(errno.ENOSPC, "full")]
    with pytest.raises(StorageError, match=f"get {tmp_path}/a: .*full"):
        flaky(tmp_path, errors).get("a")


def test_a_put_refused_for_an_object_that_does_not_exist_is_retried(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Otherwise the object would be lost on a store that answers so."""
    store, refusals = Store(str(tmp_path)), [1, 2, 3]
    create = LocalFolder.create

    def refuse(self: LocalFolder, name: str, data: bytes) -> bool:
        if refusals:
            refusals.pop()
            raise FileExistsError(errno.EEXIST, "exists", name)
        return create(self, name, data)

    monkeypatch.setattr(LocalFolder, "create", refuse)
    assert store.put_if_absent("a", b"x")
    assert store.get("a") == b"x"
    refusals += [1] * 50
    store.delete("a")
    with pytest.raises(OSError, match="exists, but it does not"):
        store.put_if_absent("a", b"x")


@pytest.mark.parametrize(
    ("status", "transient"), [(503, True), (429, True), (500, True), (403, False), (412, False)]
)
def test_the_http_status_behind_an_error_decides(status: int, transient: bool) -> None:
    """s3fs turns unknown codes into EIO; the response in its cause has the status."""
    error = OSError(errno.EIO, "as s3fs raises it")
    error.__cause__ = RuntimeError()
    error.__cause__.response = {"ResponseMetadata": {"HTTPStatusCode": status}}  # type: ignore[attr-defined]
    assert retry.is_transient(error) is transient


def test_short_reads_are_retried_from_the_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A truncated body is never returned."""
    store = Store(str(tmp_path))
    store.put("a", b"0123456789")
    whole, lengths = LocalFolder.read, [4, 9, 10]
    monkeypatch.setattr(LocalFolder, "read", lambda self, name: whole(self, name)[: lengths.pop(0)])
    assert store.get("a") == b"0123456789"
    lengths += [3] * 50
    with pytest.raises(ShortReadError, match="3 of 10"):
        store.get("a")


def test_a_changed_object_is_not_read(store: Store) -> None:
    """Its etag (or its size, on a store without etags) must be the listed one."""
    store.put("a", b"one")
    listed = store.stat("a")
    assert store.get("a", listed=listed) == b"one"
    time.sleep(0)
    store.delete("a")
    store.put("a", b"two")
    with pytest.raises(ChangedError, match="changed since"):
        store.get("a", listed=listed)
    with pytest.raises(ChangedError, match="changed since"):  # only the size differs
        store.get("a", listed=Stat(4, store.stat("a").etag))


def test_the_hook_is_called_before_and_after_every_storage_call(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Tests use it to kill a process at any of these calls."""
    seen: list[tuple[str, str, str]] = []
    monkeypatch.setattr(Store, "hook", staticmethod(lambda *call: seen.append(call)))
    store.put("a", b"x")
    store.list()
    assert seen == [
        ("before", "put", "a"),
        ("after", "put", "a"),
        ("before", "list", ""),
        ("after", "list", ""),
    ]
