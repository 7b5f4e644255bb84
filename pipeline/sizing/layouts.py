"""Which layout and pools a run takes: each layout's pools are sized, and the faster one is chosen.

No Ray, no torch: the machines are given as ``Node``, the measurements as ``Costs``.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

from pipeline.config.config import Config
from pipeline.sizing.costs import Costs
from pipeline.sizing.part_memory import PARTS_IN_ACTOR, reserved_bytes
from pipeline.sizing.pools import Node, Pool, PoolsDoNotFitError, best_sizes, rate_of

# One reader and one writer run next to the pools; each has this many CPUs (jobs/edit/graph.py).
READ_WRITE_CPUS = 0.25
# If the other layout is faster by this factor, run.layout=auto takes it (with fewer actors also at
# the same rate); otherwise a warning names it.
BETTER = 1.05
LAYOUTS = ("pools", "fused")


@dataclass(frozen=True)
class Allocation:
    """The pools of a layout on the nodes of a cluster."""

    pools: list[Pool]
    sizes: dict[str, int] = field(default_factory=dict)  # actors by pool; none: they do not fit
    rate: float = 0.0  # edits a second


def allocations(
    config: Config, device: str, costs: Costs, nodes: Sequence[Node], writer: int
) -> dict[str, Allocation]:
    """The pools of both layouts. Sizes that the config sets are kept.

    Args:
        config: the run.
        device: "cpu" or "cuda".
        costs: of an edit.
        nodes: of the cluster.
        writer: bytes that a task reserves which finishes parts.
    """
    found = {}
    for layout in LAYOUTS:
        pools = _pools(config, device, costs, nodes, layout)
        found[layout] = Allocation(pools, *_sizes(config, device, costs, nodes, pools, writer))
    return found


def chosen_layout(config: Config, found: dict[str, Allocation]) -> str:
    """``run.layout``, or the better one of both.

    Raises:
        PoolsDoNotFitError: no allowed layout fits.
    """
    chosen = config.run.layout
    if chosen == "auto":
        chosen = "fused" if _is_fused_better(found["fused"], found["pools"]) else "pools"
    if not found[chosen].sizes:
        raise PoolsDoNotFitError(
            f"run.layout={config.run.layout}: the smallest pools do not fit; memory that an actor "
            f"reserves for {PARTS_IN_ACTOR} parts of run.part_size={config.run.part_size}: "
            + ", ".join(f"{p.name} {p.memory_bytes / 1e9:.1f} GB" for p in found[chosen].pools)
            + " (stages.*.memory_bytes)"
        )
    return chosen


def _pools(
    config: Config, device: str, costs: Costs, nodes: Sequence[Node], layout: str
) -> list[Pool]:
    seconds = costs.stage_seconds(config)
    pools = []
    for name, stages in config.stages_by_pool(layout).items():
        stage = config.pool_stage(name)
        pools.append(
            Pool(
                name,
                sum(seconds[stage_name] for stage_name in stages),
                cpus=stage.cpus,
                gpus=stage.gpus_per_actor(device),
                memory_bytes=reserved_bytes(config, name, stages, costs, nodes),
                actors=None if stage.actors == "auto" else stage.actors,
                max_actors=stage.max_actors,
            )
        )
    return pools


def _sizes(
    config: Config,
    device: str,
    costs: Costs,
    nodes: Sequence[Node],
    pools: list[Pool],
    writer: int,
) -> tuple[dict[str, int], float]:
    """Sizes and rate of a layout's pools; no sizes if they do not fit."""
    others = [
        Pool("read", 0.0, cpus=READ_WRITE_CPUS, actors=1),
        Pool("finish", 0.0, cpus=READ_WRITE_CPUS, memory_bytes=writer, actors=1),
    ]
    cpu_s = _cpu_seconds(config, device, costs)
    max_per_s = sum(node.cpus for node in nodes) / cpu_s if cpu_s > 0 else math.inf
    try:
        sizes = best_sizes(pools, nodes, others=others, max_per_s=max_per_s)
    except PoolsDoNotFitError:
        return {}, 0.0
    return sizes, min(max_per_s, rate_of(pools, sizes))


def _cpu_seconds(config: Config, device: str, costs: Costs) -> float:
    """CPU seconds of one edit. The number of CPUs divided by this bounds the edits per second."""
    steps = sum(costs.seconds.get(step, 0.0) for step in ("read", "prepare", "finish"))
    if device != "cpu":
        return steps
    seconds = costs.stage_seconds(config)
    return steps + sum(seconds.values()) * config.threads


def _is_fused_better(fused: Allocation, pools: Allocation) -> bool:
    """Whether layout fused is faster, or as fast with fewer actors, each of which loads a model."""
    fewer = sum(fused.sizes.values()) < sum(pools.sizes.values())
    return fused.rate >= pools.rate * (1.0 if fewer else BETTER)
