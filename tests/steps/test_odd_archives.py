"""What archivers put beside the files of samples, or write in another way, costs no sample."""

from __future__ import annotations

import os
import subprocess
import tarfile
from pathlib import Path

import pytest

from tests.steps.test_lost_files import MAP, read, reasons, tar_of

FILES = {"png": MAP, "txt": b"a dog", "edit.txt": b"a cat"}


@pytest.mark.parametrize("split", ["dot", "suffix"])
@pytest.mark.parametrize("folder", ["", "./", "d/", "./d/e/"])
def test_hidden_files_belong_to_no_sample(folder: str, split: str) -> None:
    """macOS's tar writes ._x.png in front of x.png; editors and Finder leave others."""
    names = [f"{key}.{suffix}" for key in "xy" for suffix in FILES]
    members = [(f"{folder}.DS_Store", b"Finder"), (f"{folder}.x.txt.swp", b"vim")]
    for name in names:
        members += [(f"{folder}._{name}", b"AppleDouble"), (folder + name, FILES[name[2:]])]
    contents = read(tar_of(*members), key_split=split)
    assert [sample.key for sample in contents.samples] == [f"{folder}x", f"{folder}y"]
    assert (reasons(contents), contents.problem) == ({}, None)


@pytest.mark.parametrize("args", [["--label=set.v1"], ["--listed-incremental=snapshot"]])
def test_gnu_tars_own_records_are_no_files(tmp_path: Path, args: list[str]) -> None:
    """A volume's name, and a folder's list: their headers have times where others have a folder."""
    (tmp_path / "d").mkdir()
    for suffix, content in FILES.items():
        (tmp_path / f"d/x.{suffix}").write_bytes(content)
        os.utime(tmp_path / f"d/x.{suffix}", (len(content), len(content)))
    subprocess.run(["tar", "--format=gnu", *args, "-cf", "s.tar", "d"], cwd=tmp_path, check=True)
    contents = read((tmp_path / "s.tar").read_bytes())
    assert [sample.key for sample in contents.samples] == ["d/x"]
    assert (reasons(contents), contents.problem) == ({}, None)


def test_hard_links_are_followed_one_by_one() -> None:
    """A chain has one content; a link to what cannot be read says so, and not that it is absent."""
    one = [("x.txt", b"a dog"), ("x.edit.txt", b"a cat"), ("x.png", MAP)]
    texts = [("y.png", "./x.png"), ("y.txt", "x.txt"), ("y.edit.txt", ".//x.edit.txt")]
    chain = [(name.replace("y", "z"), name) for name, _ in texts]
    links = [(name, (tarfile.LNKTYPE, target)) for name, target in [*texts, *chain]]
    contents = read(tar_of(*one, *links))
    assert [sample.encoded for sample in contents.samples] == [MAP] * 3
    assert (reasons(contents), contents.problem) == ({}, None)
    lost = [("a.png", (tarfile.SYMTYPE, "x.png")), ("b.png", (tarfile.LNKTYPE, "a.png"))]
    words = "the member .png is a hard link to 'a.png', which cannot be read either"
    assert reasons(read(tar_of(*one, *lost)))["b"] == words
