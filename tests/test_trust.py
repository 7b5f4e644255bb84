"""Shards are not trusted: their bytes run nothing, leave no folder, fill no memory."""

from __future__ import annotations

import io
import os
import pickle
import tarfile
import tracemalloc
from pathlib import Path
from typing import Any

import pytest

from pipeline.config.input import Input
from pipeline.config.load import ConfigError
from pipeline.steps.read import read_shard
from pipeline.steps.verify import verify
from pipeline.storage.archive import read_members
from pipeline.storage.store import Store
from tests.fake_job import fake_plan, run_fake
from tests.samples import raw_sample, shard_bytes, write_shard


class Bomb:
    """Creates a folder when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.path),)


def members_of(tar: bytes) -> dict[str, bytes]:
    members, problem = read_members(tar)
    assert problem is None
    return dict(members)


def test_pickles_in_a_shard_are_never_loaded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nor passed through: webdataset's decode() and torch would load them by their suffixes."""
    evil = pickle.dumps(Bomb(tmp_path / "ran"))
    suffixes = ("pkl", "pyd", "pickle", "pth", "pt", "npy", "npz", "ten", "tb", "bin")
    extra: dict[str, Any] = dict.fromkeys(suffixes, evil)
    write_shard(
        tmp_path / "in/0.tar",
        [raw_sample("a", **extra), raw_sample("b", png=evil), raw_sample("c")],
    )
    run_fake(fake_plan(f"{tmp_path}/in", f"{tmp_path}/out"))
    members = members_of((tmp_path / "out/0.tar").read_bytes())
    passed = [suffix for suffix in suffixes if f"a_0.{suffix}" in members]
    assert passed == ["npy", "npz"]  # numpy refuses pickles in these
    assert members["a_0.npy"] == evil
    assert "c_0.png" in members
    assert not (tmp_path / "ran").exists()
    assert verify(Store(f"{tmp_path}/out")).problems == []
    pickle.loads(evil)
    assert (tmp_path / "ran").exists()  # so the test would notice a loaded pickle


@pytest.mark.parametrize("key", ["input.shards", "output.path"])
@pytest.mark.parametrize("url", ["pipe:touch {}", "simplecache::pipe:touch {}"])
def test_no_url_runs_a_command(key: str, url: str, tmp_path: Path) -> None:
    """Such a url is refused by name, before anything is read."""
    write_shard(tmp_path / "in/0.tar", [raw_sample("a")])
    paths = {"input.shards": f"{tmp_path}/in", "output.path": f"{tmp_path}/out"}
    paths[key] = url.format(tmp_path / "ran")
    with pytest.raises(ConfigError, match="refused"):
        fake_plan(paths["input.shards"], paths["output.path"])
    assert not (tmp_path / "ran").exists()


def test_no_key_leaves_the_folder_into_which_a_tar_is_unpacked(tmp_path: Path) -> None:
    """Keys with .. or absolute paths unpack below the folder, even with a careless reader."""
    keys = ["../up", "a/../../up", "/abs", "//abs", "a\\..\\..\\up", "..", "~/x", "C:\\x", "a/./b"]
    write_shard(tmp_path / "in/0.tar", [raw_sample(key, seed=n) for n, key in enumerate(keys)])
    run_fake(fake_plan(f"{tmp_path}/in", f"{tmp_path}/out", input={"key_split": "suffix"}))
    inside = tmp_path / "a/b/inside"
    with tarfile.open(tmp_path / "out/0.tar") as tar:
        names = tar.getnames()
        tar.extractall(inside, filter="fully_trusted")  # as careless readers do
    assert len(names) >= 4 * (len(keys) - 1)
    below = {str(path.relative_to(inside)) for path in inside.rglob("*") if path.is_file()}
    assert {name.removeprefix("./") for name in names} == below
    assert {path for path in (tmp_path / "a").rglob("*") if path.is_file()} == {
        inside / name for name in below
    }


def test_links_and_devices_in_a_shard_are_not_read() -> None:
    """The content of a local file cannot get into the output."""
    sink = io.BytesIO()
    with tarfile.open(fileobj=sink, mode="w") as tar:
        for kind in (tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.FIFOTYPE):
            info = tarfile.TarInfo("k.txt")
            info.type, info.linkname = kind, "/etc/passwd"
            tar.addfile(info)
    members, problem = read_members(sink.getvalue())
    assert members == []
    assert "hard links: 1, symbolic links: 1" in str(problem)


def test_sparse_members_are_not_expanded() -> None:
    """A thousand headers that each claim a megabyte are not read; their sample fails."""
    size = 2**20
    whole = shard_bytes([raw_sample("a")]).rstrip(b"\0")
    whole += bytes(-len(whole) % 512)
    data = whole + sparse_header(size) * 1000 + shard_bytes([raw_sample("b", text="x" * size)])
    tracemalloc.start()
    contents = read_shard(data, Input(shards="x"))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert [image.key for image in contents.samples] == ["a", "bomb", "b"]
    assert [bool(image.pending) for image in contents.samples] == [True, False, True]
    assert "sparse files: 1000" in str(contents.problem)
    assert peak < 20 * size


def sparse_header(size: int) -> bytes:
    """The header of a GNU sparse member without data, which stands for that many zeros."""
    info = tarfile.TarInfo("bomb.bin")
    header = bytearray(info.tobuf(tarfile.GNU_FORMAT))
    header[156:157] = tarfile.GNUTYPE_SPARSE
    header[386:482] = bytes(96)  # the map of data segments, which is empty
    header[483:495] = b"%011o\0" % size
    header[148:156] = b" " * 8
    header[148:156] = b"%06o\0 " % sum(header)
    return bytes(header)
