"""Runs of the local loop on memory://, in one process and without files."""

from __future__ import annotations

import uuid
from pathlib import Path

import pytest

from pipeline.plan.status import read_status
from pipeline.steps.verify import verify
from pipeline.storage.store import ChangedError, Store
from tests.fake_job import fake_plan, run_fake
from tests.stores.two_shards import published, put_input


@pytest.fixture
def folder() -> str:
    return f"memory://{uuid.uuid4().hex}"


def test_a_run_in_memory_writes_the_same_bytes_as_on_disk(folder: str, tmp_path: Path) -> None:
    """Read, staged, published and verified; a second run has nothing to do."""
    put_input(f"{folder}/in", {})
    put_input(f"{tmp_path}/in", {})
    assert run_fake(fake_plan(f"{folder}/in/**/*.tar", f"{folder}/out", 1)).work == []
    run_fake(fake_plan(f"{tmp_path}/in", f"{tmp_path}/out", 1))
    output = Store(f"{folder}/out")
    assert published(output) == published(Store(f"{tmp_path}/out"))
    assert len(published(output)) == 4
    assert verify(output).problems == []
    assert read_status(output).states == {"done": 2, "staged": 0, "to do": 0}
    assert fake_plan(f"{folder}/in", f"{folder}/out", 1).work == []


def test_a_changed_input_in_memory_is_not_read(folder: str) -> None:
    """Its write time serves as the etag."""
    put_input(f"{folder}/in", {})
    (shard, _) = fake_plan(f"{folder}/in", f"{folder}/out", 1).work
    assert shard.shard.read()
    put_input(f"{folder}/in", {})
    with pytest.raises(ChangedError, match="changed since"):
        shard.shard.read()
