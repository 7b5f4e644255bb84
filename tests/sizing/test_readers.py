"""How many shards are read at once."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from pipeline.config.config import Config
from pipeline.config.load import parse_config
from pipeline.sizing.costs import Costs, counted_costs
from pipeline.sizing.pools import Node
from pipeline.sizing.readers import num_readers

MB = 1_000_000
COSTS = Costs("calibration", {"read": 0.02, "prepare": 0.08, "decode": 1.0}, 8)
NODES = [Node(cpus=64, gpus=8, memory_bytes=100_000 * MB)]


def config(**run: object) -> Config:
    return parse_config({"input": {"shards": "in"}, "output": {"path": "out"}, "run": run})


def readers(costs: Costs = COSTS, rate: float = 8.0, shard: int = MB, **run: object) -> int:
    return num_readers(config(**run), costs, NODES, {"fused": 8}, rate, shard)


def test_readers_feed_the_pools() -> None:
    """A tenth of a second an image, at 40 images a second, keeps four busy; half more for luck."""
    assert readers(rate=40.0) == 6
    assert readers(rate=8.0) == 2
    assert readers(rate=0.1) == 2  # one waits for the store while the other reads


def test_unmeasured_costs_give_each_actor_a_reader() -> None:
    """An image takes less time to read than to edit."""
    assert readers(counted_costs(config()), rate=1.0) == 8


@pytest.mark.parametrize(
    ("shard", "run", "expected"),
    [
        (400 * MB, {}, 25),  # a fifth of 100 GB, at twice 400 MB
        (400 * MB, {"read_memory_bytes": 2500 * MB}, 3),
        (400 * MB, {"read_memory_bytes": 100 * MB}, 1),  # one reads, whatever it takes
        (400 * MB, {"read_memory_bytes": 100 * MB, "readers": 5}, 5),
    ],
)
def test_shards_in_memory_are_bounded(shard: int, run: dict[str, Any], expected: int) -> None:
    """By the configured bytes, else by a share of the cluster's memory; a set number is kept."""
    assert readers(rate=1000.0, shard=shard, **run) == expected


def test_a_cluster_of_unknown_memory_bounds_nothing() -> None:
    """Ray tells no memory of some nodes."""
    nodes = [replace(NODES[0], memory_bytes=0.0)]
    assert num_readers(config(), COSTS, nodes, {"fused": 8}, 40.0, 400 * MB) == 6
