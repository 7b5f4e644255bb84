"""Hashes of files are remembered by size and times, so that a restart reads none again."""

from __future__ import annotations

import hashlib
import os
import shutil
import time
from pathlib import Path

import pytest

from pipeline.config.config import Config
from pipeline.models import file_hashes
from pipeline.models.file_hashes import FileHashes, recall_node, remember_node
from pipeline.models.probe import probe_model
from pipeline.models.score_weights import probe_scores
from pipeline.plan.plan import HASHES_FILE, make_plan
from pipeline.plan.run_folder import write_run_folder
from tests.samples import raw_sample, write_shard
from tests.tiny_scorers import make_tiny_scorers


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of files that are read; files of a moment ago are remembered too."""
    monkeypatch.setattr(file_hashes, "SETTLED_S", -1.0)
    names: list[str] = []
    read = file_hashes._read

    def noting(path: Path) -> str:
        names.append(path.name)
        return read(path)

    monkeypatch.setattr(file_hashes, "_read", noting)
    return names


@pytest.fixture(autouse=True)
def node(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A machine that remembers nothing yet."""
    folder = tmp_path / "node"
    monkeypatch.setattr(file_hashes, "_node_folder", lambda: folder)
    return folder


def restarted(hashes: FileHashes) -> FileHashes:
    return FileHashes.from_json(hashes.to_json())


def test_a_file_is_read_once(tmp_path: Path, reads: list[str]) -> None:
    """Also by the next start; what is no longer asked for is forgotten."""
    for name in ("a", "b"):
        (tmp_path / name).write_bytes(name.encode())
    hashes = FileHashes()
    wanted = hashlib.sha256(b"a").hexdigest()
    assert hashes.sha256(tmp_path / "a") == wanted
    hashes.sha256(tmp_path / "b")
    again = restarted(hashes)
    assert again.sha256(tmp_path / "a") == wanted
    assert reads == ["a", "b"]
    assert [Path(name).name for name in again.to_tree()] == ["a"]
    assert [Path(name).name for name in again.to_tree(forget=False)] == ["a", "b"]


def test_a_changed_file_of_the_same_size_is_read_again(tmp_path: Path, reads: list[str]) -> None:
    """Times tell; the change time does too where the modification time was set back."""
    path = tmp_path / "a"
    path.write_bytes(b"one")
    hashes = FileHashes()
    hashes.sha256(path)
    before = path.stat()
    time.sleep(0.02)  # the clock of the file system has a resolution of some milliseconds
    path.write_bytes(b"two")
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert restarted(hashes).sha256(path) == hashlib.sha256(b"two").hexdigest()
    assert len(reads) == 2
    replaced = tmp_path / "b"
    replaced.write_bytes(b"six")
    os.utime(replaced, ns=(before.st_atime_ns, before.st_mtime_ns))
    replaced.rename(path)
    assert restarted(hashes).sha256(path) == hashlib.sha256(b"six").hexdigest()


def test_a_file_of_a_moment_ago_is_not_remembered(tmp_path: Path) -> None:
    """A second change within the clock's resolution would not be seen."""
    path = tmp_path / "a"
    path.write_bytes(b"one")
    hashes = FileHashes()
    hashes.sha256(path)
    assert hashes.to_tree() == {}


@pytest.mark.parametrize("data", [b"", b"{", b"[1]", b'{"/a": 3}', b'{"/a": {}}'])
def test_damaged_memory_is_none(tmp_path: Path, data: bytes) -> None:
    """It only costs reading the files again."""
    (tmp_path / "a").write_bytes(b"one")
    wanted = hashlib.sha256(b"one").hexdigest()
    assert FileHashes.from_json(data).sha256(tmp_path / "a") == wanted


def test_a_restart_reads_no_weights(
    tiny_model_folder: Path, tmp_path: Path, node: Path, reads: list[str]
) -> None:
    """Model and scorers: the hashes lie beside the output; the fingerprint is the same."""
    write_shard(tmp_path / "in/0.tar", [raw_sample("a")])
    config = Config.model_validate(
        {
            "input": {"shards": f"{tmp_path}/in/*.tar"},
            "output": {"path": f"{tmp_path}/out"},
            "model": {"path": str(tiny_model_folder)},
            "scores": make_tiny_scorers(tmp_path / "scorers"),
        }
    )
    plan = make_plan(config, "cpu")
    assert {"diffusion_pytorch_model.safetensors", "lpips.safetensors"} <= set(reads)
    write_run_folder(plan)
    assert (tmp_path / "out" / HASHES_FILE).is_file()
    reads.clear()
    probe_model(plan.config.model, hash_files=False)  # as workers of this machine do
    probe_scores(plan.config.scores, hash_files=False)
    assert reads == []
    shutil.rmtree(node)
    again = make_plan(config, "cpu")
    assert reads == []
    assert again.fingerprint == plan.fingerprint
    write_run_folder(again)  # keeps what it knows
    make_plan(config, "cpu")
    assert reads == []
    assert again.without_shards().hashes.to_tree() == {}


def test_a_machine_remembers_what_its_processes_hashed(
    tmp_path: Path, node: Path, reads: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Processes add to it; files that are gone leave it; another user's file is not believed."""
    for name in ("a", "b"):
        (tmp_path / name).write_bytes(name.encode())
        hashes = FileHashes.from_json(recall_node())
        hashes.sha256(tmp_path / name)
        remember_node(hashes)
    hashes = FileHashes.from_json(recall_node())
    assert [hashes.sha256(tmp_path / name)[:4] for name in ("a", "b")] == ["ca97", "3e23"]
    assert reads == ["a", "b"]
    (tmp_path / "b").unlink()
    (tmp_path / "c").write_bytes(b"c")
    hashes.sha256(tmp_path / "c")
    remember_node(hashes)
    assert str(tmp_path / "c").encode() in recall_node()
    monkeypatch.setattr(os, "getuid", lambda: 12345)
    assert recall_node() == b"{}"
    remember_node(hashes)
    monkeypatch.undo()


def test_a_machine_without_room_remembers_nothing(
    tmp_path: Path, node: Path, reads: list[str]
) -> None:
    """No folder can be made: that is no error."""
    node.write_bytes(b"a file where the folder should be")
    (tmp_path / "a").write_bytes(b"a")
    hashes = FileHashes()
    hashes.sha256(tmp_path / "a")
    remember_node(hashes)
    assert recall_node() == b"{}"
