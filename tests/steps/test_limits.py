"""One sample or shard cannot starve the others: too much of anything is a row with a reason."""

from __future__ import annotations

import io
import tarfile
from collections import Counter
from typing import Any

import pytest
from PIL import Image

from pipeline.config.input import Input
from pipeline.images.errors import ImageError
from pipeline.images.files import MAX_SCANS, START_OF_SCAN, decode_image
from pipeline.records.part import Edit, Sample
from pipeline.steps import limits
from pipeline.steps.cut_parts import plan_parts
from pipeline.steps.read import read_shard
from pipeline.storage import shards, tar_walk
from pipeline.storage.archive import read_tar
from pipeline.storage.formats import BadShardError
from pipeline.storage.shards import InputShard
from tests.samples import encode, pixels, raw_sample, shard_bytes

IMAGE = encode(pixels())


def outcome(**members: Any) -> tuple[str | None, str | None]:
    """Kind of error and message of a sample that stands between two innocent ones."""
    hostile = {"__key__": "k", "png": IMAGE, "txt": "a", "edit.txt": "b"}
    hostile |= {name.replace("__", "."): value for name, value in members.items()}
    data = shard_bytes([raw_sample("a"), hostile, raw_sample("z")])
    first, sample, last = read_shard(data, Input(shards="x")).samples
    assert first.pending
    assert last.pending
    assert len(sample.edits) == 1, "a hostile sample has one row"
    return sample.edits[0].error, sample.edits[0].message


def test_a_sample_beyond_a_limit_is_one_row(monkeypatch: pytest.MonkeyPatch) -> None:
    """4,000 blank lines with a caption of a megabyte would be 4 GB of rows."""
    assert outcome(edit__txt="\n" * 4000 + "x", txt="c" * 1_000_000)[0] == "TooManyEdits"
    kind, message = outcome(txt="c" * 20_000)
    assert (kind, message) == ("TooLarge", "the caption has 20000 bytes; at most 16384 are read")
    assert "an edit text has 20000 bytes" in str(outcome(edit__txt="ok\n" + "e" * 20_000)[1])
    assert "the member .json has" in str(outcome(json={"x": "y" * 2_000_000})[1])
    monkeypatch.setattr(limits, "MAX_COPIED_BYTES", 10_000)
    kind, message = outcome(edit__txt="\n".join("abcdefghijk"), cls="1" * 1000)
    assert kind == "TooLarge"
    assert "once for each of 11 edits, take 11000 bytes; at most 10000" in str(message)
    monkeypatch.setattr(limits, "MAX_FILE_BYTES", 2 * len(IMAGE))
    assert "the member .npy has" in str(outcome(npy=b"x" * (2 * len(IMAGE) + 1))[1])


def test_a_part_closes_before_it_grows_too_large(monkeypatch: pytest.MonkeyPatch) -> None:
    """By the bytes of its images and of what each edit repeats; small samples are cut as before."""
    small = [Sample(f"{n}", encoded=b"x" * 10, edits=[Edit(0)]) for n in range(6)]
    assert [len(part) for part in plan_parts(small, 4)] == [4, 2]
    monkeypatch.setattr("pipeline.steps.cut_parts.MAX_PART_BYTES", 100)
    assert [len(part) for part in plan_parts(small, 4)] == [4, 2]
    large = [
        Sample(f"{n}", encoded=b"x" * 30, extras={"cls": b"y" * 20}, edits=[Edit(0), Edit(1)])
        for n in range(3)
    ]
    assert [len(part) for part in plan_parts(large, 64)] == [1, 1, 1]


def test_a_shard_that_is_too_large_is_named_before_it_is_read(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It is read whole, so a tar of a terabyte would end the reader."""
    monkeypatch.setattr(shards, "MAX_SHARD_BYTES", 1000)
    with pytest.raises(BadShardError, match=r"/no/x\.tar: 1001 bytes; at most 1000 are read"):
        InputShard("/no/x.tar", "x", 1001).read()


def pax(records: bytes) -> bytes:
    info = tarfile.TarInfo("pax")
    info.type, info.size = tarfile.XHDTYPE, len(records)
    return info.tobuf(tarfile.USTAR_FORMAT) + records + bytes(-len(records) % 512)


EMPTY = tarfile.TarInfo("a.txt").tobuf(tarfile.USTAR_FORMAT)
FLIPPED = EMPTY[:3] + b"!" + EMPTY[4:]


@pytest.mark.parametrize(
    "piece",
    [
        EMPTY + bytes(512),
        EMPTY + bytes(1024),
        FLIPPED + EMPTY,
        FLIPPED,
        pax(b"30 comment=0123456789abcdefg\n"[:30]),
        pax(b"12 size=x9\n\n"),
        b"ustar" * 102 + b"xx",
    ],
    ids=["zero", "zeros", "damage", "flipped", "pax", "bad pax", "ustar"],
)
def test_the_walk_over_a_tar_takes_time_linear_in_its_size(
    piece: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Tars of blocks of zeros or of headers took time with the square of the size: it is counted
    how often a header is parsed, and how many bytes are searched."""
    work: Counter[str] = Counter()
    parsed = tar_walk._parsed

    def counted(block: bytes) -> tarfile.TarInfo | None:
        work["parsed"] += 1
        return parsed(block)

    monkeypatch.setattr(tar_walk, "_parsed", counted)
    found = []
    for copies in (500, 1000):
        work.clear()
        read_tar(piece * copies)
        found.append(work["parsed"])
    assert found[1] <= 2.1 * found[0] + 10
    assert found[1] <= 4 * 1000 * len(piece) // 512 + 10


def test_a_chain_of_extended_headers_is_no_recursion() -> None:
    """Python's tarfile calls itself for each of them."""
    contents = read_tar(pax(b"13 path=a.txt\n"[:13]) * 5000 + EMPTY + bytes(1024))
    assert len(contents.members) <= 1


def test_a_gzip_header_inside_a_tar_header_is_not_unpacked() -> None:
    """A reader that guesses the compression would unpack 2 GB: nothing is unpacked unannounced."""
    block = bytearray(tarfile.TarInfo("\x1f\x8b\x08a.txt").tobuf(tarfile.USTAR_FORMAT, "latin-1"))
    contents = read_tar(bytes(block) + bytes(1024))
    assert len(contents.members) == 1


def test_a_jpeg_of_a_thousand_scans_is_not_decoded() -> None:
    """Each scan is a pass over all pixels: its neighbors would time out with it."""
    sink = io.BytesIO()
    Image.fromarray(pixels()).save(sink, "JPEG", progressive=True)
    data = sink.getvalue()
    assert decode_image(data, max_pixels=10**6, suffixes=["jpg"])[0].size == (64, 48)
    last = data.rindex(START_OF_SCAN)
    bomb = data[:last] + data[last:-2] * (MAX_SCANS + 1) + data[-2:]
    with pytest.raises(ImageError, match=r"a JPEG of 11\d scans; at most 100 are read"):
        decode_image(bomb, max_pixels=10**6, suffixes=["jpg"])
