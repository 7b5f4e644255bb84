"""What archivers put beside the files of samples, or write in another way, costs no sample."""

from __future__ import annotations

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
