"""A sample that lost a file is never edited as if it never had it."""

from __future__ import annotations

import io
import subprocess
import tarfile
from pathlib import Path
from typing import Any

import pytest

from pipeline.config.input import Input
from pipeline.steps.read import ShardContents, read_shard
from tests.samples import encode, pixels, raw_sample, shard_bytes

PHOTO, MAP = encode(pixels(1), "jpg"), encode(pixels(2))
TEXTS = [("y.txt", b"a dog"), ("y.edit.txt", b"a cat")]
LINK = tuple[bytes, str]  # type and target


def tar_of(*members: tuple[str, bytes | LINK]) -> bytes:
    sink = io.BytesIO()
    with tarfile.open(fileobj=sink, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for name, content in members:
            info = tarfile.TarInfo(name)
            if isinstance(content, tuple):
                info.type, info.linkname = content
                tar.addfile(info)
            else:
                info.size = len(content)
                tar.addfile(info, io.BytesIO(content))
    return sink.getvalue()


def headers(data: bytes) -> dict[str, tarfile.TarInfo]:
    with tarfile.open(fileobj=io.BytesIO(data)) as tar:
        return {info.name: info for info in tar}


def flipped(data: bytes, name: str, byte: int = 3) -> bytes:
    """One byte of a file's header is wrong."""
    damaged = bytearray(data)
    damaged[headers(data)[name].offset + byte] ^= 0x7F
    return bytes(damaged)


def read(data: bytes, **config: Any) -> ShardContents:
    return read_shard(data, Input(shards="x", **config))


def reasons(contents: ShardContents) -> dict[str, str]:
    """Key -> message of every failed sample."""
    return {s.key: str(s.edits[0].message) for s in contents.samples if not s.pending}


SAMPLES = shard_bytes(
    [
        raw_sample("a", mask__png=MAP, seed=1),
        raw_sample("b", json={"seed": 7}, seed=2),
        raw_sample("c", seed=3),
    ]
)


@pytest.mark.parametrize("byte", [0, 3, 100, 124, 148, 156, 257, 511])
@pytest.mark.parametrize("name", ["a.mask.png", "b.json", "b.txt", "c.png"])
def test_a_damaged_header_fails_the_sample_whose_file_it_was(name: str, byte: int) -> None:
    """Whatever byte is wrong, that sample fails and the others are edited."""
    contents = read(flipped(SAMPLES, name, byte))
    assert reasons(contents).keys() == {name[0]}
    assert "a file of the sample is lost" in reasons(contents)[name[0]]


@pytest.mark.parametrize("name", ["a.mask.png", "b.json"])
def test_a_cut_inside_a_file_fails_its_sample(name: str) -> None:
    """The file is named; what came before is edited."""
    contents = read(SAMPLES[: headers(SAMPLES)[name].offset_data + 5])
    assert reasons(contents) == {
        name[0]: f"the member {name[1:]} is cut: the shard ends inside of it"
    }


def test_a_cut_between_files_fails_a_sample_that_lacks_what_all_others_have() -> None:
    """Whether it lacks a file that only some have is not known: its rows have a note."""
    end = headers(SAMPLES)["c.edit.txt"].offset
    assert "lacks .edit.txt, which all others have" in reasons(read(SAMPLES[:end]))["c"]
    last = read(SAMPLES[: end + 1024]).samples[-1]
    (note,) = last.pending[0].notes
    assert note == f"the shard is cut at byte {end + 1024}, after this sample: it may lack a file"


def test_zeros_in_place_of_a_header_fail_both_neighbors() -> None:
    """Nothing tells whose file it was."""
    info = headers(SAMPLES)["b.png"]
    data = bytearray(SAMPLES)
    data[info.offset : info.offset + 1024] = bytes(1024)
    assert reasons(read(bytes(data))).keys() == {"a", "b"}


def test_a_long_name_in_a_damaged_extended_header_is_not_guessed() -> None:
    """The file behind it appears under a cut name: that and the samples beside it fail."""
    key = "k" * 120
    data = shard_bytes([raw_sample("a"), raw_sample(key), raw_sample("z")])
    name = f"{key}.png"
    contents = read(flipped(data, name, 130 - 100))
    assert {"a", key} <= reasons(contents).keys()
    assert [sample.key for sample in contents.samples if sample.pending] == ["z"]


def test_a_tar_inside_of_a_tar_is_content() -> None:
    """Also where its header is damaged, its size too: no file inside becomes a sample."""
    inner = tar_of(("inner.png", MAP), ("inner.txt", b"x"), ("inner.edit.txt", b"y"))
    own = [("a.frames.tar", inner), ("b.png", MAP), ("b.txt", b"a dog"), ("b.edit.txt", b"a cat")]
    data = tar_of(("a.png", MAP), ("a.txt", b"a dog"), ("a.edit.txt", b"a cat"), *own)
    for byte in (3, 124, 156, 257):
        contents = read(flipped(data, "a.frames.tar", byte))
        assert [sample.key for sample in contents.samples] == ["a", "b"], byte
        assert "a" in reasons(contents)


def test_another_image_or_caption_never_takes_the_place_of_one_that_is_lost() -> None:
    """The photo is damaged or a link that cannot be followed: its segmentation is not edited."""
    whole = tar_of(("y.jpg", PHOTO), ("y.png", MAP), *TEXTS)
    outside = (tarfile.SYMTYPE, "/data/y.jpg")
    tars = {
        "damaged at byte 0": flipped(whole, "y.jpg"),
        "symbolic link to '/data/y.jpg'": tar_of(("y.jpg", outside), ("y.png", MAP), *TEXTS),
        "hard link to 'gone.jpg'": tar_of(
            ("y.jpg", (tarfile.LNKTYPE, "gone.jpg")), ("y.png", MAP), *TEXTS
        ),
    }
    for words, data in tars.items():
        contents = read(data, image=["jpg", "png"])
        assert words in reasons(contents)["y"]
        assert contents.problem is not None
    caption = ("y.json", b'{"caption": "x"}')
    data = tar_of(("y.jpg", PHOTO), caption, ("y.txt", outside), TEXTS[1])
    assert "the member .txt is a symbolic link" in reasons(read(data))["y"]


def test_a_hard_link_has_the_content_of_the_file_that_it_names() -> None:
    """Archivers write one for each further name of a file on the disk."""
    link = (tarfile.LNKTYPE, "./x.jpg")
    first = [("x.jpg", PHOTO), ("x.txt", b"a"), ("x.edit.txt", b"b")]
    contents = read(tar_of(*first, ("y.jpg", link), ("y.png", MAP), *TEXTS))
    assert contents.problem is None
    assert [sample.encoded for sample in contents.samples] == [PHOTO, PHOTO]
    assert reasons(contents) == {}


def test_a_shard_of_links_says_so() -> None:
    """A folder of links, packed without --dereference, has a failed row for each sample."""
    links = [(f"a.{end}", (tarfile.SYMTYPE, f"/d/a.{end}")) for end in ("png", "txt", "edit.txt")]
    contents = read(tar_of(*links))
    assert reasons(contents).keys() == {"a"}
    assert str(contents.problem).startswith("3 of 3 files cannot be read (symbolic links: 3)")


SPARSE_PAX = [
    ["--format=posix", f"--sparse-version={version}"] for version in ("0.0", "0.1", "1.0")
]


@pytest.mark.parametrize("form", [*SPARSE_PAX, ["--format=gnu"]])
def test_a_sparse_file_is_never_passed_through_with_other_content(
    tmp_path: Path, form: list[str]
) -> None:
    """GNU tar's four ways to store holes: the sample fails, and says why."""
    for name, content in {"x.png": MAP, "x.txt": b"a", "x.edit.txt": b"b"}.items():
        (tmp_path / name).write_bytes(content)
    with open(tmp_path / "x.depth.npy", "wb") as file:
        file.seek(200_000)
        file.write(b"depth" * 2000)
        file.truncate(500_000)
    names = ["x.png", "x.depth.npy", "x.edit.txt", "x.txt"]
    tar: list[str | Path] = ["tar", "-S", *form, "-cf", tmp_path / "s.tar", "-C", tmp_path, *names]
    subprocess.run(tar, check=True)
    data = (tmp_path / "s.tar").read_bytes()
    assert len(data) < 100_000, "the disk keeps no holes"
    contents = read(data)
    assert reasons(contents) == {"x": "the member .depth.npy is sparse: written by tar --sparse"}
    assert "sparse" in str(contents.problem)
    assert "truncated" not in str(contents.problem)


def test_a_tar_without_samples_has_a_problem() -> None:
    """Files without a suffix belong to no sample: nothing is left out in silence."""
    contents = read(tar_of(("README", b"x"), ("images/1", MAP)))
    assert contents.samples == []
    assert contents.problem == "none of its 2 files has a key and a suffix"
