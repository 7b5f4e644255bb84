"""Reads or publishes a shard in this process, and prints the bytes of memory that it took.

    python -m tests.steps.peak_memory read|publish FOLDER

The folder holds a shard, ``in/0.tar``; or its staged parts, in ``out``. What the imports and a
small shard, ``in/small.tar``, take is not counted.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

from pipeline.config.input import Input
from pipeline.steps.publish import publish_if_complete
from pipeline.steps.read import read_parts
from pipeline.storage.shards import expand_shards
from pipeline.storage.store import Store

PART_SIZE = 4


def read(path: Path) -> int:
    """The parts of a shard; each is gone when the next one is read."""
    (shard,) = expand_shards(str(path))
    return sum(len(part.samples) for part in read_parts(shard, Input(shards="x"), PART_SIZE))


def peak_bytes() -> int:
    """The most memory that this process has had since the peak was forgotten."""
    found = re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())
    assert found is not None
    return int(found[1]) * 1024


def forget_peak() -> None:
    """Sets the peak to what the process has now (proc(5), clear_refs)."""
    Path("/proc/self/clear_refs").write_text("5")


def main(what: str, folder: Path) -> None:
    """Does the small thing, forgets the peak, does the large one, and prints the difference."""
    store = Store(str(folder / "out"))
    read(folder / "in/small.tar")
    assert publish_if_complete(store, "small") is not None
    forget_peak()
    before = peak_bytes()
    if what == "read":
        assert read(folder / "in/0.tar")
    else:
        assert publish_if_complete(store, "0") is not None
    print(peak_bytes() - before)


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
