"""Shards of a data set on the hub, and of a web server, are inputs like any others."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from pipeline.storage import scratch
from pipeline.storage.shards import expand_shards
from pipeline.storage.store import ChangedError
from tests.models.small_hub import SmallHub, serving, use_hub
from tests.samples import raw_sample, write_shard


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two shards, each in a folder."""
    for name in "ab":
        write_shard(tmp_path / f"set/train/{name}.tar", [raw_sample(name)])
    return tmp_path / "set"


@pytest.fixture
def hub(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[SmallHub]:
    with serving() as found:
        use_hub(monkeypatch, found, tmp_path / "cache")
        found.commit("us/set", folder)
        yield found


@pytest.mark.parametrize("entry", ["train/*.tar", "train", "train/{a,b}.tar", "**/*.tar"])
def test_a_data_set_of_the_hub_is_read(hub: SmallHub, folder: Path, entry: str) -> None:
    """A glob, a folder or names, with the hub's hash as etag."""
    options = {"endpoint": hub.url}
    shards = expand_shards(f"hf://datasets/us/set/{entry}", options)
    assert [shard.name.rpartition("/")[2] for shard in shards] == ["a", "b"]
    for shard in shards:
        name = shard.url.removeprefix("hf://datasets/us/set/")
        assert shard.read(options) == (folder / name).read_bytes()
        assert shard.etag


@pytest.mark.parametrize("large", [False, True])
def test_reading_a_shard_lists_no_folder(
    hub: SmallHub, monkeypatch: pytest.MonkeyPatch, large: bool
) -> None:
    """A folder of a data set may hold thousands of tars: each read asks for its own file alone."""
    if large:
        monkeypatch.setattr(scratch, "HELD_BYTES", 0)
    options = {"endpoint": hub.url}
    shards = expand_shards("hf://datasets/us/set/train/*.tar", options)
    hub.requests.clear()
    for shard in shards:
        shard.read(options)
    assert hub.got("/resolve/"), "the tars themselves"
    assert hub.got("/tree/") == hub.got("/revision/") == []


def test_a_branch_that_moves_during_a_run_is_seen(hub: SmallHub, tmp_path: Path) -> None:
    """The tar is not the one that was listed, though it has its size."""
    options = {"endpoint": hub.url}
    shard = expand_shards("hf://datasets/us/set/train/a.tar", options)[0]
    write_shard(tmp_path / "new/train/a.tar", [raw_sample("a", seed=5, suffix="png")])
    hub.commit("us/set", tmp_path / "new")
    with pytest.raises(ChangedError, match="changed since this run listed its inputs"):
        shard.read(options)


def test_a_data_set_that_is_not_there_says_so(hub: SmallHub) -> None:
    """With the repository's name."""
    with pytest.raises((ValueError, OSError), match="us/nothing"):
        expand_shards("hf://datasets/us/nothing/*.tar", {"endpoint": hub.url})


@pytest.fixture
def web(folder: Path) -> Iterator[str]:
    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, *arguments: Any) -> None:
            pass

    handler = partial(Quiet, directory=str(folder))
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.mark.parametrize("large", [False, True])
def test_tars_of_a_web_server_are_named_one_by_one(
    web: str, folder: Path, monkeypatch: pytest.MonkeyPatch, large: bool
) -> None:
    """With braces, for example."""
    if large:
        monkeypatch.setattr(scratch, "HELD_BYTES", 0)
    shards = expand_shards(f"{web}/train/{{a,b}}.tar")
    assert [shard.name for shard in shards] == ["a", "b"]
    assert shards[1].read() == (folder / "train/b.tar").read_bytes()


@pytest.mark.parametrize("entry", ["train/*.tar", "train/none.tar"])
def test_a_web_server_lists_no_folders(web: str, entry: str) -> None:
    """A glob, or a name that is not there: the message says what to write."""
    with pytest.raises(ValueError, match="a web server lists no folders; name its tars one by one"):
        expand_shards(f"{web}/{entry}")


def test_a_library_that_is_missing_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """In one line, with what to install."""

    def missing(protocol: str) -> None:
        raise ImportError("Please install gcsfs to access Google Storage")

    monkeypatch.setattr("pipeline.storage.filesystem.fsspec.get_filesystem_class", missing)
    with pytest.raises(ValueError, match=r"gs:// needs a library.*gcsfs.*the extras s3, gcs"):
        expand_shards("gs://bucket/in/*.tar")
