"""Damaged tars: every readable member is read, and every loss is reported."""

from __future__ import annotations

import io
import tarfile

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from webdataset.tariterators import base_plus_ext

from pipeline.storage.archive import read_members, split_at_first_dot
from pipeline.storage.tar_write import SampleTar
from tests.samples import raw_sample, shard_bytes

SAMPLES = [raw_sample(f"{number:02d}", seed=number, cls=str(number)) for number in range(4)]
WHOLE = shard_bytes(SAMPLES)
MEMBERS = dict(read_members(WHOLE)[0])


def test_a_whole_archive_has_no_problem() -> None:
    """Members come in the archive's order; an empty archive is whole too."""
    members, problem = read_members(WHOLE)
    assert [name for name, _ in members[:4]] == ["00.png", "00.txt", "00.edit.txt", "00.cls"]
    assert (len(members), problem) == (16, None)
    assert read_members(shard_bytes([])) == ([], None)


@pytest.mark.parametrize("data", [b"", b"<html>404</html>", b"x" * 5000, WHOLE[:100]])
def test_data_that_is_not_a_tar_has_a_problem(data: bytes) -> None:
    """An empty file or a web page is not an empty archive."""
    members, problem = read_members(data)
    assert members == []
    assert problem is not None


def test_an_archive_cut_at_any_block_keeps_whole_members_and_has_a_problem() -> None:
    """Every member before the cut is read, and the cut is reported."""
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
    """Reading continues at the next valid header, where Python's tarfile stops without an error."""
    with tarfile.open(fileobj=io.BytesIO(WHOLE)) as tar:
        infos = tar.getmembers()
    for damaged in infos:
        data = bytearray(WHOLE)
        data[damaged.offset + 150] ^= 1  # inside the checksum field
        members, problem = read_members(bytes(data))
        assert problem == f"truncated: no valid header at byte {damaged.offset} of {len(WHOLE)}"
        assert {name for name, _ in members} == set(MEMBERS) - {damaged.name}


def test_flipped_bits_never_raise_and_every_loss_is_reported() -> None:
    """After each of 500 seeded bit flips, all members are there or a problem is reported."""
    generator = np.random.default_rng(0)
    for place in generator.integers(0, len(WHOLE), 500):
        data = bytearray(WHOLE)
        data[place] ^= 1 << int(generator.integers(8))
        members, problem = read_members(bytes(data))
        assert problem is not None or [name for name, _ in members] == list(MEMBERS), place


def test_data_after_the_end_is_read_and_reported() -> None:
    """Of two archives one after the other, the second is read too."""
    second = shard_bytes([raw_sample("zz")])
    members, problem = read_members(WHOLE + second)
    assert problem is not None
    assert "data after an end-of-archive block" in problem
    assert {name for name, _ in members} > set(MEMBERS)


def test_only_regular_members_are_read() -> None:
    """No link can point out of the archive; one that does is said, and a folder is nothing."""
    sink = io.BytesIO()
    with tarfile.open(fileobj=sink, mode="w") as tar:
        for name, kind in (("dir", tarfile.DIRTYPE), ("a.txt", tarfile.SYMTYPE)):
            info = tarfile.TarInfo(name)
            info.type, info.linkname = kind, "/etc/passwd"
            tar.addfile(info)
    problem = "1 of 1 files cannot be read (symbolic links: 1): 'a.txt'"
    assert read_members(sink.getvalue()) == ([], problem)


def test_members_in_webdatasets_metadata_folders_are_read() -> None:
    """webdataset skips folders named __like_this__; their edits would be lost without a row."""
    names = [name for name, _ in read_members(shard_bytes([{"__a__/b.png": b"x"}]))[0]]
    assert names == ["__a__/b.png"]


def test_a_negative_size_does_not_loop() -> None:
    """CPython before 3.11.14 walks backwards forever (CVE-2025-8194)."""
    info = tarfile.TarInfo("a.txt")
    header = bytearray(info.tobuf())
    header[124:136] = b"\xff" * 10 + b"\xfe\x00"  # base 256: -512
    header[148:156] = b" " * 8
    header[148:156] = f"{sum(header):06o}\0 ".encode()
    members, problem = read_members(bytes(header) + bytes(1024))
    assert members == []
    assert problem is not None


def test_the_writers_bytes_depend_only_on_the_content() -> None:
    """Equal samples give equal bytes; long and Unicode names are read back unchanged."""
    key = "ordner/" + "ü" * 150 + "/" + "x" * 120
    written = []
    for _ in range(2):
        tar = SampleTar()
        tar.add(key, {"txt": b"b", "jpg": b"a"})
        written.append(tar.getvalue())
    assert written[0] == written[1]
    assert read_members(written[0]) == ([(f"{key}.jpg", b"a"), (f"{key}.txt", b"b")], None)


@given(st.text("ab./\n é", max_size=12))
def test_names_are_split_as_webdataset_splits_them(name: str) -> None:
    """Readers do not import it, so the rule is written again."""
    assert split_at_first_dot(name) == base_plus_ext(name)
