"""Shards that are compressed, and files that are no shards."""

from __future__ import annotations

import gzip
from pathlib import Path

import pyarrow as pa
import pytest

from pipeline.config.input import Input
from pipeline.steps.read import count_edits, read_parts
from pipeline.storage.formats import BadShardError, ending, unpacked, what_it_is
from pipeline.storage.shards import InputShard, expand_shards
from tests.samples import raw_sample, shard_bytes

GOOD = shard_bytes([raw_sample("x")])
INPUT = Input(shards="x")


def zstd(data: bytes) -> bytes:
    compressed: bytes = pa.compress(data, codec="zstd", asbytes=True)
    return compressed


def shard_of(path: Path, data: bytes) -> InputShard:
    path.write_bytes(data)
    return expand_shards(str(path))[0]


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("a.tar", GOOD),
        ("a.TAR", GOOD),
        ("a.tar.gz", gzip.compress(GOOD)),
        ("a.tgz", gzip.compress(GOOD[:5000]) + gzip.compress(GOOD[5000:])),
        ("a.tar.zst", zstd(GOOD)),
    ],
)
def test_a_shard_may_be_compressed(tmp_path: Path, name: str, data: bytes) -> None:
    """It is named as the plain one would be, and has the same samples."""
    shard = shard_of(tmp_path / name, data)
    (part,) = read_parts(shard, INPUT, 4)
    assert (shard.name, part.problem) == ("a", None)
    assert [sample.key for sample in part.samples] == ["x"]


@pytest.mark.parametrize(
    ("name", "data", "words"),
    [
        ("a.tar", gzip.compress(GOOD), "compressed by gzip: give it a name that ends in .tar.gz"),
        ("a.tar", zstd(GOOD), "compressed by zstd"),
        ("a.tar", b"<html><body>403 Forbidden</body></html>" * 20, "text, perhaps a server's"),
        ("a.tar", b"version https://git-lfs.github.com/spec/v1\n", "git lfs pull"),
        ("a.tar", b"", "the file is empty"),
        ("a.tar", bytes(40960), "zeros, as in a download that was cut"),
        ("a.tar", b"x" * 5000, "it begins with b'xxx"),
        ("a.tar.gz", gzip.compress(GOOD)[:-4], "Truncated compressed stream"),
        ("a.tgz", GOOD, "cannot be unpacked: it is a tar that is not compressed"),
        ("a.tgz", zstd(GOOD), "cannot be unpacked: it is no tar: it is compressed by zstd"),
        ("a.tar.zst", gzip.compress(GOOD), "give it a name that ends in .tar.gz"),
        ("a.tar.gz", b"<html>403 Forbidden</html>" * 20, "text, perhaps a server's"),
        ("a.tar.zst", b"version https://git-lfs.github.com/spec/v1\n", "git lfs pull"),
        ("a.tar.gz", gzip.compress(gzip.compress(GOOD)), "it is compressed by gzip"),
        ("a.tar.gz", gzip.compress(GOOD) + b"more", "incorrect header check"),
        ("a.tar.zst", zstd(GOOD)[:-9], "Truncated compressed stream"),
    ],
)
def test_a_shard_that_is_no_tar_is_not_read_as_an_empty_one(
    tmp_path: Path, name: str, data: bytes, words: str
) -> None:
    """It has no parts, so nothing is published, and the next run reads it again."""
    shard = shard_of(tmp_path / name, data)
    with pytest.raises(BadShardError, match=r"a\.t.*") as raised:
        list(read_parts(shard, INPUT, 4))
    assert str(raised.value).startswith(f"{tmp_path}/{name}: ")
    assert words in str(raised.value)
    assert count_edits(shard, INPUT) == 0


def test_a_wrong_checksum_of_gzip_is_not_overlooked(tmp_path: Path) -> None:
    """All bytes are there, and one of them is wrong."""
    damaged = bytearray(gzip.compress(GOOD))
    damaged[-6] ^= 1
    with pytest.raises(BadShardError, match="incorrect data check"):
        unpacked("a.tar.gz", bytes(damaged))


@pytest.mark.parametrize("pack", [gzip.compress, zstd])
def test_a_bomb_is_not_unpacked(pack: object) -> None:
    """A few kB that would fill the memory."""
    assert callable(pack)
    bomb = pack(bytes(80 << 20))
    with pytest.raises(BadShardError, match="unpacks to more than 67108864 bytes"):
        unpacked("a.tar.gz" if pack is gzip.compress else "a.tar.zst", bomb)


def test_endings() -> None:
    """The longest one, in any case; a name must stand before it."""
    names = ["a.tar", "b.TAR", "c.Tar.Gz", "x/d.tgz", "a.tar.bz2", ".tar", "x/.tar.gz", "tar"]
    assert [ending(name) for name in names] == [
        ".tar", ".TAR", ".Tar.Gz", ".tgz", None, None, None, None,
    ]  # fmt: skip
    assert "zip file" in what_it_is(b"PK\3\4...")
