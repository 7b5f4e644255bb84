"""An input without shards: no bucket, no match and a folder of other files are told apart."""

from __future__ import annotations

from pathlib import Path
from unittest import mock

import pytest

from pipeline.storage.bucket import Bucket
from pipeline.storage.retry import StorageError
from pipeline.storage.shards import expand_shards
from pipeline.storage.store import Store


def said(entry: str) -> str:
    with pytest.raises(ValueError, match=r"^input\.shards: nothing matches ") as caught:
        expand_shards(entry)
    return str(caught.value)


@pytest.fixture(params=["folder", "bucket"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return str(tmp_path) if request.param == "folder" else f"memory://{tmp_path}"


def test_a_folder_without_tars_says_what_it_has_and_what_to_do(place: str) -> None:
    """People point at a folder of images first."""
    for name in ("1.jpg", "1.txt", "2.jpg", "2.txt"):
        Store(f"{place}/images").put(name, b"x")
    for entry in (f"{place}/images", f"{place}/images/*.tar", f"{place}/images/*.jpg"):
        text = said(entry)
        assert "has no .tar, but 1.jpg, 1.txt, 2.jpg, ...;" in text
        assert "pack the files with overpaint pack SHARDS " in text
    with pytest.raises(ValueError, match="packed with overpaint pack SHARDS "):
        expand_shards(f"{place}/images/1.jpg")


def test_other_files_than_images_are_packed_by_hand(place: str) -> None:
    """overpaint pack would find nothing there."""
    Store(f"{place}/texts").put("1.txt", b"x")
    assert "pack the files with tar --sort=name -cf 00000.tar *" in said(f"{place}/texts")


def test_other_tars_are_named(place: str) -> None:
    """A wrong pattern, or tars in a subfolder that the pattern does not reach."""
    Store(f"{place}/in").put("deep/7.tar", b"x")
    assert "has other tars, e.g. deep/7.tar;" in said(f"{place}/in/*.tar")


def test_a_missing_folder_or_file_is_said(place: str) -> None:
    """An empty folder does not exist in a bucket, so the two are one case."""
    assert "there is no such folder, or it is empty" in said(f"{place}/nowhere")
    assert "there is no such folder, or it is empty" in said(f"{place}/nowhere/*.tar")
    assert "there is no such file" in said(f"{place}/nowhere/0.tar")


def test_a_file_in_place_of_the_folder_is_said(tmp_path: Path) -> None:
    """Only on a local disk."""
    (tmp_path / "in").write_text("x")
    assert f"{tmp_path}/in is not a folder" in said(f"{tmp_path}/in/*.tar")


@pytest.mark.parametrize("entry", ["", "/*.tar", "/0.tar", "/{0..1}.tar", "/**/*.tar"])
def test_a_missing_bucket_is_not_a_missing_match(place: str, entry: str) -> None:
    """Whatever form the entry has; tests/stores asks a real server."""
    missing = StorageError("there is no bucket 'b'")
    with mock.patch.object(Bucket, "check_reachable", side_effect=missing):
        assert ("there is no bucket 'b'" in said(f"{place}/in{entry}")) == ("memory" in place)
