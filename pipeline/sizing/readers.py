"""Memory of the tasks that read and write shards, and how many shards are read at once."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from pipeline.config.config import Config
from pipeline.sizing.costs import Costs
from pipeline.sizing.pools import Node
from pipeline.steps.limits import MAX_PART_BYTES

# A task has a process, and a part several times while it hands it on; measured with parts of 33 and
# 131 MB (infra/benchmarks/README.md).
PROCESS_BYTES = 200 << 20
READER_PARTS, WRITER_PARTS = 1.5, 4.0
BYTES_PER_SHARD_BYTE = 2.0  # of a reader, where it is not known how large a part is
WRITER_SHARE = 0.1  # of a node's memory, at most, for one writer
MEMORY_SHARE = 0.2  # of the cluster's memory, for all readers
MARGIN = 1.5  # shards and samples are of unlike size
FEWEST = 2  # while one waits for the store, the other reads


def num_readers(
    config: Config,
    costs: Costs,
    nodes: Sequence[Node],
    sizes: Mapping[str, int],
    images_per_s: float,
    largest_shard: int,
) -> int:
    """Readers of a run, each of which also prepares the images of its shard.

    Args:
        config: ``run.readers`` is kept if it is a number.
        costs: of an edit.
        nodes: of the cluster.
        sizes: actors by pool.
        images_per_s: rate of the pools.
        largest_shard: bytes of the largest shard to read.
    """
    if config.run.readers != "auto":
        return config.run.readers
    if costs.source == "evaluations":
        needed = sum(sizes.values())  # an image takes less time to read than to edit
    else:
        seconds = costs.seconds.get("read", 0.0) + costs.seconds.get("prepare", 0.0)
        needed = math.ceil(MARGIN * images_per_s * seconds)
    room = config.run.read_memory_bytes
    if room is None:
        room = int(MEMORY_SHARE * sum(node.memory_bytes for node in nodes))
    fitting = room // reader_bytes(config, costs, largest_shard) if room else needed
    return max(1, min(fitting, max(FEWEST, needed)))


def reader_bytes(config: Config, costs: Costs, largest_shard: int) -> int:
    """Main memory of a task that reads a shard; the shard itself stays on the disk."""
    if costs.edits_per_byte <= 0:
        return int(BYTES_PER_SHARD_BYTE * max(1, largest_shard))
    return int(PROCESS_BYTES + READER_PARTS * _part_bytes(config, costs, largest_shard))


def writer_bytes(
    config: Config, costs: Costs, nodes: Sequence[Node], largest_shard: int
) -> int | None:
    """Main memory that a task which finishes parts and publishes a shard reserves.

    Returns:
        As configured, else by the size of a part, at most a tenth of the smallest node's memory.
        None, so nothing: the nodes do not say how much they have, or nothing is known of a part.
    """
    if config.run.write_memory_bytes is not None:
        return config.run.write_memory_bytes
    smallest = min((node.memory_bytes for node in nodes), default=0.0)
    if not smallest or costs.edits_per_byte <= 0:
        return None
    needed = PROCESS_BYTES + WRITER_PARTS * _part_bytes(config, costs, largest_shard)
    return int(min(needed, WRITER_SHARE * smallest))


def _part_bytes(config: Config, costs: Costs, largest_shard: int) -> float:
    """A part's files and its images: as many as its edits take of an average shard."""
    files = min(config.run.part_size / costs.edits_per_byte, largest_shard, MAX_PART_BYTES)
    return files + config.run.part_size * costs.edit_bytes.get("prepare", 0.0)
