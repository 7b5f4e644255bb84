"""Damaged tars: all that is readable is read, and nothing is short in silence."""

from __future__ import annotations

import io
import tarfile

import numpy as np
import pytest

from pipeline.storage.archive import read_members, tar_writer
from tests.samples import raw_sample, shard_bytes

SAMPLES = [raw_sample(f"{number:02d}", seed=number, cls=str(number)) for number in range(4)]
WHOLE = shard_bytes(SAMPLES)
MEMBERS = dict(read_members(WHOLE)[0])


def test_a_whole_archive_has_no_problem() -> None:
    """All members in their order, and an archive without any."""
    members, problem = read_members(WHOLE)
    assert [name for name, _ in members[:4]] == ["00.png", "00.txt", "00.edit.txt", "00.cls"]
    assert (len(members), problem) == (16, None)
    assert read_members(shard_bytes([])) == ([], None)


@pytest.mark.parametrize("data", [b"", b"<html>404</html>", b"x" * 5000, WHOLE[:100]])
def test_what_is_no_tar_has_a_reason(data: bytes) -> None:
    """Neither an empty file nor a web page is an archive without members."""
    members, problem = read_members(data)
    assert members == []
    assert problem is not None


def test_every_cut_has_a_reason_and_keeps_what_is_before_it() -> None:
    """Cut at every block: each member that is there whole is read, and the shortness is said."""
    archive_end = len(WHOLE.rstrip(b"\0")) // 512 * 512 + 512  # zeros from here on
    for cut in range(0, archive_end + 1, 512):
        members, problem = read_members(WHOLE[:cut])
        assert problem is not None, cut
        assert problem.startswith("truncated: ")
        assert all(MEMBERS[name] == data for name, data in members)
        with tarfile.open(fileobj=io.BytesIO(WHOLE)) as tar:
            there = [m.name for m in tar if m.offset_data + m.size <= cut and m.offset_data <= cut]
        assert len(members) >= len(there) - 1
        assert [name for name, _ in members] == there[: len(members)]
    assert read_members(WHOLE[: archive_end + 512])[1] is None


def test_a_damaged_header_costs_one_member() -> None:
    """Reading goes on at the next valid header, where Python's tarfile ends in silence."""
    with tarfile.open(fileobj=io.BytesIO(WHOLE)) as tar:
        infos = tar.getmembers()
    for damaged in infos:
        data = bytearray(WHOLE)
        data[damaged.offset + 150] ^= 1  # inside the checksum field
        members, problem = read_members(bytes(data))
        assert problem == f"truncated: no valid header at byte {damaged.offset} of {len(WHOLE)}"
        assert {name for name, _ in members} == set(MEMBERS) - {damaged.name}


def test_flipped_bits_never_raise_and_never_lose_in_silence() -> None:
    """500 flips at seeded places: a problem is said, or every member is still there."""
    generator = np.random.default_rng(0)
    for place in generator.integers(0, len(WHOLE), 500):
        data = bytearray(WHOLE)
        data[place] ^= 1 << int(generator.integers(8))
        members, problem = read_members(bytes(data))
        assert problem is not None or [name for name, _ in members] == list(MEMBERS), place


def test_data_after_the_end_is_no_silence() -> None:
    """Two archives one after the other: the second is read too, and it is said."""
    second = shard_bytes([raw_sample("zz")])
    members, problem = read_members(WHOLE + second)
    assert problem is not None
    assert "data after it" in problem
    assert {name for name, _ in members} > set(MEMBERS)


def test_only_regular_members_count() -> None:
    """Links and folders are ignored: none of them can point out of the archive."""
    sink = io.BytesIO()
    with tarfile.open(fileobj=sink, mode="w") as tar:
        for name, kind in (("dir", tarfile.DIRTYPE), ("a.txt", tarfile.SYMTYPE)):
            info = tarfile.TarInfo(name)
            info.type, info.linkname = kind, "/etc/passwd"
            tar.addfile(info)
    assert read_members(sink.getvalue()) == ([], None)


def test_a_folder_that_webdataset_keeps_for_itself_is_read() -> None:
    """What lies in __so__/ asks for edits like all else, and would be lost without a row."""
    names = [name for name, _ in read_members(shard_bytes([{"__a__/b.png": b"x"}]))[0]]
    assert names == ["__a__/b.png"]


def test_a_negative_size_does_not_loop() -> None:
    """CPython before 3.11.14 walks backwards for ever (CVE-2025-8194)."""
    info = tarfile.TarInfo("a.txt")
    header = bytearray(info.tobuf())
    header[124:136] = b"\xff" * 10 + b"\xfe\x00"  # base 256: -512
    header[148:156] = b" " * 8
    header[148:156] = f"{sum(header):06o}\0 ".encode()
    members, problem = read_members(bytes(header) + bytes(1024))
    assert members == []
    assert problem is not None


def test_the_writers_bytes_depend_on_content_alone() -> None:
    """Equal samples, equal bytes; long and unicode names come back as they were."""
    key = "ordner/" + "ü" * 150 + "/" + "x" * 120
    written = []
    for _ in range(2):
        sink = io.BytesIO()
        with tar_writer(sink) as writer:
            writer.write({"__key__": key, "txt": b"b", "jpg": b"a"})
        written.append(sink.getvalue())
    assert written[0] == written[1]
    assert read_members(written[0]) == ([(f"{key}.jpg", b"a"), (f"{key}.txt", b"b")], None)
