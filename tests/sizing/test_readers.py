"""How many shards are read at once."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from pipeline.config.config import Config
from pipeline.config.load import parse_config
from pipeline.config.stages import STAGES
from pipeline.sizing.costs import Costs, counted_costs
from pipeline.sizing.estimate import estimate, sized
from pipeline.sizing.pools import Node
from pipeline.sizing.readers import PROCESS_BYTES, num_readers, reader_bytes, writer_bytes

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


def test_a_reader_takes_a_process_and_its_parts() -> None:
    """2 MB an edit and 1 MB of pixels make parts of 192 MB; the shard stays on the disk."""
    known = replace(COSTS, edits_per_byte=1 / (2 * MB), edit_bytes={"prepare": 1.0 * MB})
    expected = PROCESS_BYTES + 1.5 * 192 * MB
    assert reader_bytes(config(), known, 400 * MB) == pytest.approx(expected)
    assert reader_bytes(config(), known, 4000 * MB) == pytest.approx(expected)
    small = PROCESS_BYTES + 1.5 * (10 + 64) * MB  # one part, which is the shard
    assert reader_bytes(config(), known, 10 * MB) == pytest.approx(small)
    assert readers(known, rate=1000.0, shard=4000 * MB, read_memory_bytes=1800 * MB) == 3


def test_a_writer_reserves_its_parts() -> None:
    """As configured, else by the size of a part, at most a tenth of a node."""
    known = replace(COSTS, edits_per_byte=1 / (2 * MB))
    needed = PROCESS_BYTES + 4 * 128 * MB
    assert writer_bytes(config(), known, NODES, 400 * MB) == pytest.approx(needed)
    small = [*NODES, replace(NODES[0], memory_bytes=4000 * MB)]
    assert writer_bytes(config(), known, small, 400 * MB) == 400 * MB
    assert writer_bytes(config(write_memory_bytes=7), known, NODES, 400 * MB) == 7
    assert writer_bytes(config(), COSTS, NODES, 400 * MB) is None  # of unknown parts
    unknown = [replace(NODES[0], memory_bytes=0.0)]
    assert writer_bytes(config(), known, unknown, 400 * MB) is None


def test_the_plan_leaves_memory_for_a_writer() -> None:
    """Without it, actors may take all memory, and no part would ever be finished."""
    auto = {name: {"actors": "auto", "memory_bytes": 30_000 * MB} for name in STAGES}
    tree = {"input": {"shards": "in"}, "output": {"path": "out"}, "stages": auto}
    costs = replace(COSTS, edits_per_byte=1 / (2 * MB), seconds=dict.fromkeys(STAGES, 1.0))
    free = parse_config(tree | {"run": {"layout": "fused", "write_memory_bytes": 0}})
    taken = parse_config(tree | {"run": {"layout": "fused", "write_memory_bytes": 11_000 * MB}})
    assert estimate(free, "cuda", costs, NODES, 1000, 400 * MB).sizes == {"fused": 3}
    expected = estimate(taken, "cuda", costs, NODES, 1000, 400 * MB)
    assert expected.sizes == {"fused": 2}
    assert sized(taken, expected).run.write_memory_bytes == 11_000 * MB
