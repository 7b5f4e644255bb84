"""How many shards are read at once: enough to feed the pools, within a bound of memory."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from pipeline.config.config import Config
from pipeline.sizing.costs import Costs
from pipeline.sizing.pools import Node

# A reader holds its shard, and a part of it several times while it hands it on; measured with
# shards of 400 MB (infra/benchmarks/README.md).
BYTES_PER_SHARD_BYTE = 2.0
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
    fitting = room // int(BYTES_PER_SHARD_BYTE * max(1, largest_shard)) if room else needed
    return max(1, min(fitting, max(FEWEST, needed)))
