"""The benchmark of readers and writers, with a stand-in for the command."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from infra.benchmarks.readers import Measured, look, measure, private_bytes, write_shards
from pipeline.config.input import Input
from pipeline.steps.read import read_shard

MB = 1 << 20
# Starts a process of the name that Ray gives to a reader, which holds 50 MiB; stages parts of three
# shards, and publishes one of them.
COMMAND = """
import signal, subprocess, sys, time
from pathlib import Path

signal.signal(signal.SIGTERM, lambda *_: sys.exit())
output = Path(next(text for text in sys.argv if text.startswith("output.path=")).partition("=")[2])
hold = "data = b'x' * (50 << 20); print(flush=True); import time; time.sleep(60)"
name = "ray::MapBatches(_read)"
process = subprocess.Popen([name, "-c", hold], executable=sys.executable, stdout=subprocess.PIPE)
process.stdout.readline()
for shard in ("0", "1", "2"):
    (output / "_parts" / shard).mkdir(parents=True)
    (output / "_parts" / shard / "00000-of-00001-0.arrow").touch()
time.sleep(1)
(output / "2_stats.json").touch()
try:
    time.sleep(60)
finally:
    process.kill()
"""


def checkout_of(home: Path, command: str) -> Path:
    """A folder whose ``jobs.cli`` is this code."""
    package = home / "checkout/jobs"
    package.mkdir(parents=True)
    (package / "__init__.py").touch()
    (package / "cli.py").write_text(command)
    return home / "checkout"


def test_a_run_is_sampled_until_its_shard_is_published(tmp_path: Path) -> None:
    """The reader's own memory, and the shards that were begun by then."""
    found = measure(checkout_of(tmp_path, COMMAND), tmp_path / "in", tmp_path / "out", [], 1)
    readers, writers = found.peaks["readers"], found.peaks["writers"]
    assert 50 * MB < readers.one == readers.together < 100 * MB
    assert (readers.processes, writers.processes, writers.one) == (1, 0, 0)
    assert (found.published, found.begun_at_first) == (1, 3)
    assert found.first_part_s is not None
    assert found.first_published_s is not None
    assert found.first_part_s <= found.first_published_s


def test_a_run_that_publishes_nothing_is_an_error(tmp_path: Path) -> None:
    """And no figure."""
    checkout = checkout_of(tmp_path, "raise SystemExit(7)")
    with pytest.raises(RuntimeError, match="no shard is published; the run ended with 7"):
        measure(checkout, tmp_path / "in", tmp_path / "out", [], 1)


def test_private_memory_is_without_shared_mappings() -> None:
    """Ray's objects lie in /dev/shm; a page that two processes have is nobody's own."""
    lines = [
        "7f00-7f10 rw-p 00000000 00:00 0",
        "Shared_Clean:         64 kB",
        "Private_Clean:         4 kB",
        "Private_Dirty:         8 kB",
        "7f10-7f20 rw-s 00000000 00:01 7  /dev/shm/plasmaX (deleted)",
        "Private_Dirty:       512 kB",
        "7f20-7f30 r--p 00000000 00:02 9  /usr/lib/libc.so",
        "Private_Clean:         1 kB",
    ]
    assert private_bytes(lines) == 13 * 1024
    own = Path(f"/proc/{os.getpid()}/smaps").read_text().splitlines()
    assert private_bytes(own) > 10 * MB


def test_the_shards_are_as_large_as_asked_for(tmp_path: Path) -> None:
    """Noise does not compress; each sample has an edit, and its large image passes through."""
    size = write_shards(tmp_path / "in", 2, 10, 64)
    files = sorted((tmp_path / "in").iterdir())
    assert [file.stat().st_size for file in files] == [size, size]
    assert 10 * 3 * (64**2 + 128**2) < size < 15 * 3 * (64**2 + 128**2)
    samples = read_shard(files[1].read_bytes(), Input(shards="x")).samples
    assert len(samples) == 10
    assert all(len(sample.pending) == 1 and "raw.png" in sample.extras for sample in samples)


def test_a_shard_that_is_published_was_begun(tmp_path: Path) -> None:
    """Its parts may be gone already."""
    found = Measured()
    look(tmp_path, found, 1.0)
    assert (found.first_part_s, found.begun_at_first) == (None, None)
    (tmp_path / "0_stats.json").touch()
    look(tmp_path, found, 2.0)
    look(tmp_path, found, 3.0)
    assert (found.first_part_s, found.first_published_s, found.begun_at_first) == (2.0, 2.0, 1)
