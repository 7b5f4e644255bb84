"""The fast writer of tars gives the bytes of webdataset's."""

from __future__ import annotations

import io

import pytest
from webdataset import TarWriter

from pipeline.storage.archive import read_members
from pipeline.storage.tar_write import SampleTar, header

KEYS = [
    *("a", "deep/er/b", "k" * 95, "k" * 96, "k" * 97, "d/" * 60 + "k", "k" * 300),
    *("é", "猫/1", "a b%0A", "'\"", "é" * 60),
]


@pytest.mark.parametrize("sizes", [(0, 1), (511, 512), (513, 9000)])
@pytest.mark.parametrize("count", [0, 1, 3, len(KEYS)])
def test_bytes_are_those_of_webdataset(count: int, sizes: tuple[int, int]) -> None:
    """Whatever the names and the sizes; members are sorted."""
    sink, fast = io.BytesIO(), SampleTar()
    fixed = {"mtime": 0, "user": "overpaint", "group": "overpaint", "mode": 0o644}
    writer = TarWriter(sink, encoder=False, **fixed)
    for key in KEYS[:count]:
        members = {"txt": b"x" * sizes[0], "png": b"\xff" * sizes[1], "edit.txt": b"e"}
        writer.write({"__key__": key, **members})
        fast.add(key, members)
    writer.close()
    assert fast.getvalue() == sink.getvalue()
    members_read, problem = read_members(fast.getvalue())
    assert problem is None
    assert len(members_read) == 3 * count


def test_a_size_beyond_eleven_digits_is_left_to_tarfile() -> None:
    """8 GiB and more; 8 GiB less one is the largest in octal digits."""
    assert header("a.bin", 8**11 - 1)[124:136] == b"7" * 11 + b"\0"
    assert b"size=8589934592" in header("a.bin", 8**11)
