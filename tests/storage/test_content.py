"""Objects that are read by ranges of a file, and spooled to scratch disk."""

from __future__ import annotations

import gzip
import hashlib
import os
import random
import re
import shutil
import tempfile
import uuid
from pathlib import Path
from typing import Any

import pytest

from pipeline.config.input import Input
from pipeline.process.notice import on_notice
from pipeline.steps.read import read_parts, read_shard
from pipeline.storage import bucket, scratch
from pipeline.storage import content as content_module
from pipeline.storage.content import FileContent, find_not_zero, sha256_of
from pipeline.storage.formats import BadShardError
from pipeline.storage.retry import StorageError
from pipeline.storage.scratch import Spool
from pipeline.storage.shards import InputShard, expand_shards
from pipeline.storage.store import Store
from tests.samples import raw_sample, shard_bytes

WHOLE = shard_bytes([raw_sample(f"{number}", seed=number, cls="7") for number in range(3)])


@pytest.fixture
def small_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every object but an empty one is large, and windows are short."""
    monkeypatch.setattr(scratch, "HELD_BYTES", 0)
    monkeypatch.setattr(content_module, "WINDOW", 700)


def file_of(path: Path, data: bytes) -> FileContent:
    path.write_bytes(data)
    return FileContent(open(path, "rb"), path.name)


def test_ranges_and_searches_are_those_of_bytes(tmp_path: Path, small_limit: None) -> None:
    """At any place, forwards and backwards, beyond the end, and across windows."""
    draw = random.Random(0)
    data = bytes(1500) + draw.choices([b"", b"abc"])[0] + b"\0ustar" * 300 + bytes(2500) + b"x"
    found = file_of(tmp_path / "x", data)
    assert len(found) == len(data)
    assert sha256_of(found) == hashlib.sha256(data).hexdigest()
    for _ in range(300):
        start, size = draw.randrange(len(data) + 20), draw.choice([0, 1, 512, 699, 701, 3000])
        assert found[start : start + size] == data[start : start + size]
        for wanted in (b"ustar", bytes(600), b"x", b"absent"):
            assert found.find(wanted, start) == data.find(wanted, start)
        assert find_not_zero(found, start) == find_not_zero(data, start)
    assert find_not_zero(found, len(data)) == find_not_zero(data, len(data)) == -1


@pytest.mark.parametrize("cut", [0, 100, 512, 1536, 2048, 4000, len(WHOLE) - 700, len(WHOLE)])
@pytest.mark.parametrize("damaged", [False, True])
def test_a_tar_is_read_alike_from_a_file(
    tmp_path: Path, small_limit: None, cut: int, damaged: bool
) -> None:
    """Whole, cut, and with a damaged header: samples, reasons and notes."""
    data = bytearray(WHOLE[:cut])
    if damaged:
        data[512 * 3 : 512 * 8] = bytes(5 * 512)[: max(0, len(data) - 512 * 3)]
    config = Input(shards="x")
    assert read_shard(file_of(tmp_path / "0.tar", bytes(data)), config) == read_shard(
        bytes(data), config
    )


@pytest.mark.parametrize("place", ["local", "memory"])
@pytest.mark.parametrize("ending", [".tar", ".tar.gz"])
def test_parts_of_a_large_shard_are_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: str, ending: str
) -> None:
    """Read from its file, or from a copy on scratch disk; compressed or not."""
    folder = str(tmp_path / "in") if place == "local" else f"memory://{uuid.uuid4().hex}/in"
    stored = gzip.compress(WHOLE) if ending == ".tar.gz" else WHOLE
    Store(folder).put(f"0{ending}", stored)
    (shard,) = expand_shards(folder)
    held = list(read_parts(shard, Input(shards="x"), 2))
    monkeypatch.setattr(scratch, "HELD_BYTES", 0)
    made = files_made(monkeypatch)
    assert list(read_parts(shard, Input(shards="x"), 2)) == held
    assert len(made) == (place == "memory") + (ending == ".tar.gz")
    assert shard.read() == WHOLE
    assert shard.sha256() == hashlib.sha256(stored).hexdigest() == sha_of_input(shard)
    assert all(os.fstat(file.fileno()).st_nlink == 0 for file in made)  # they have no name


def sha_of_input(shard: InputShard) -> str:
    (part, *_) = read_parts(shard, Input(shards="x"), 2)
    return part.input_sha256


def files_made(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The scratch files that are made from now on."""
    made: list[Any] = []
    make = tempfile.TemporaryFile

    def noting(*args: Any, **options: Any) -> Any:
        file = make(*args, **options)
        made.append(file)
        return file

    monkeypatch.setattr(tempfile, "TemporaryFile", noting)
    return made


def test_a_large_file_that_is_no_tar_says_what_it_is(tmp_path: Path, small_limit: None) -> None:
    """As a small one does."""
    for data, reason in (
        (bytes(50_000), "all of its bytes are zeros"),
        (b"PK\3\4" * 99, "zip file"),
    ):
        Store(str(tmp_path)).put("0.tar", data)
        with pytest.raises(BadShardError, match=reason):
            list(read_parts(expand_shards(str(tmp_path))[0], Input(shards="x"), 2))
    (tmp_path / "0.tar").rename(tmp_path / "0.tar.gz")
    with pytest.raises(BadShardError, match="cannot be unpacked: it is no tar: it is a zip file"):
        list(read_parts(expand_shards(str(tmp_path))[0], Input(shards="x"), 2))


def test_a_file_that_changes_while_it_is_read_is_an_error(
    tmp_path: Path, small_limit: None
) -> None:
    """One that is replaced is not: the file stays open."""
    Store(str(tmp_path)).put("0.tar", WHOLE)
    (shard,) = expand_shards(str(tmp_path))
    parts = list(read_parts(shard, Input(shards="x"), 1))
    reading = read_parts(shard, Input(shards="x"), 1)
    assert next(reading) == parts[0]
    Store(str(tmp_path)).put("0.tar", b"another")
    assert list(reading) == parts[1:]
    Store(str(tmp_path)).put("0.tar", WHOLE)
    (shard,) = expand_shards(str(tmp_path))
    reading = read_parts(shard, Input(shards="x"), 1)
    next(reading)
    with open(tmp_path / "0.tar", "r+b") as file:
        file.write(b"changed")
    with pytest.raises(StorageError, match="has changed while it was read"):
        next(reading)
    content = file_of(tmp_path / "x", WHOLE)
    (tmp_path / "x").write_bytes(WHOLE[:2000])
    with pytest.raises(StorageError, match="has changed while it was read"):
        content[2000:4000]


@pytest.mark.parametrize("limit", [0, 10, 1 << 30])
def test_a_spool_holds_what_was_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, limit: int
) -> None:
    """In memory or on disk; stored in a folder and in a bucket it is the same object."""
    monkeypatch.setattr(scratch, "HELD_BYTES", limit)
    spool, pieces = Spool(), [b"abc", b"", b"x" * 5_000_000, b"end"]
    for piece in pieces:
        spool.write(piece)
    data = b"".join(pieces)
    assert (spool.size, spool.getvalue()) == (len(data), data)
    assert spool.sha256 == hashlib.sha256(data).hexdigest()
    for url in (str(tmp_path / "out"), f"memory://{uuid.uuid4().hex}"):
        store = Store(url)
        store.put("a/b.tar", b"torn")
        store.put_spooled("a/b.tar", spool)
        assert store.get("a/b.tar") == data
        assert list(store.list()) == ["a/b.tar"]
    assert (spool.path is None) == (limit > len(data))


def test_without_scratch_disk_objects_are_held_and_a_notice_says_so(
    monkeypatch: pytest.MonkeyPatch, small_limit: None
) -> None:
    """A full disk, or a folder that is not there, costs memory and not the run."""
    told: list[str] = []
    scratch._tell.cache_clear()
    on_notice(told.append)
    try:
        store = Store(f"memory://{uuid.uuid4().hex}")
        store.put("0.tar", WHOLE)
        monkeypatch.setattr(scratch, "SPARE_BYTES", shutil.disk_usage("/").total * 1000)
        assert isinstance(store.open("0.tar"), bytes)
        assert isinstance(store.open("0.tar"), bytes)  # it is told once
        monkeypatch.setattr(tempfile, "gettempdir", lambda: "/absent")
        spool = Spool()
        spool.write(WHOLE)
        spool.write(b"more")
    finally:
        on_notice(None)
    assert (spool.path, spool.getvalue()) == (None, WHOLE + b"more")
    assert ["too little room" in line for line in told] == [True, False]
    assert ["no scratch disk in /absent" in line for line in told] == [False, True]
    assert all("held in memory" in line for line in told)


@pytest.mark.parametrize("size", [10, 1 << 20])  # noticed when it is read, and when it is written
def test_a_scratch_disk_that_fills_up_is_named(size: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is spooled, and what is copied from a bucket: the store is not to blame."""
    monkeypatch.setattr(scratch, "HELD_BYTES", 0)
    for module in (scratch, bucket):
        monkeypatch.setattr(module, "scratch_file", lambda size: open("/dev/full", "r+b"))  # noqa: SIM115
    folder = re.escape(tempfile.gettempdir())
    spool = Spool()
    with pytest.raises(OSError, match=rf"No space left on device on the scratch disk, {folder}"):  # noqa: PT012
        spool.write(bytes(size))
        spool.content("tar")
    Store("memory://full").put("0.tar", bytes(size))
    with pytest.raises(OSError, match=r"on the scratch disk"):
        Store("memory://full").open("0.tar")
