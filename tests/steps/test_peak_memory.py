"""What a process takes to read and to publish a large shard."""

from __future__ import annotations

import random
import subprocess
import sys
from pathlib import Path

import pytest

from pipeline.steps.finish import finish
from pipeline.steps.read import read_parts
from pipeline.steps.write_part import write_part
from pipeline.storage.shards import expand_shards
from pipeline.storage.store import Store
from tests.committing import invert, make_config, make_context, prepared
from tests.samples import raw_sample, write_shard
from tests.steps.peak_memory import PART_SIZE

MB = 1_000_000
SAMPLES, SAMPLE_BYTES = 64, 3 * MB


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A shard of 192 MB and a small one, and the staged parts of both; none is published."""
    home = tmp_path_factory.mktemp("large")
    noise = random.Random(0).randbytes(SAMPLE_BYTES)
    samples = [raw_sample(f"{number}", npy=noise) for number in range(SAMPLES)]
    write_shard(home / "in/0.tar", samples)
    write_shard(home / "in/small.tar", samples[:1])
    config = make_config(f"{home}/in/*.tar")
    store, context = Store(str(home / "out")), make_context(config)
    for shard in expand_shards(config.input.shards):
        for part in read_parts(shard, config.input, PART_SIZE):
            write_part(store, finish(invert(prepared(part, config)), context), "f00d", "c0de")
    return home


def peak_bytes(what: str, folder: Path) -> int:
    """The memory that one process takes for the large shard."""
    command = [sys.executable, "-m", "tests.steps.peak_memory", what, str(folder)]
    return int(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def test_a_shard_is_read_in_a_third_of_its_size(folder: Path) -> None:
    """A part of it is in memory, never the shard."""
    assert peak_bytes("read", folder) < SAMPLES * SAMPLE_BYTES / 3


def test_a_shard_is_published_in_half_of_its_size(folder: Path) -> None:
    """A part of it is in memory, and what of the tar is not yet on the scratch disk."""
    assert peak_bytes("publish", folder) < SAMPLES * SAMPLE_BYTES / 2
    tar = folder / "out/0.tar"
    assert tar.stat().st_size > SAMPLES * SAMPLE_BYTES
