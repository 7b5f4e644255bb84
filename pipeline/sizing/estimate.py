"""Sizes a run's pools and estimates its rate, hours and money.

No Ray, no torch: the machines are given as ``Node``, the measurements as ``Costs``.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

from pipeline.config.config import Config
from pipeline.plan.summary import PlanOutcome
from pipeline.sizing.costs import Costs
from pipeline.sizing.part_memory import PARTS_IN_ACTOR, reserved_bytes
from pipeline.sizing.pools import Node, Pool, PoolsDoNotFitError, best_sizes, rate_of
from pipeline.sizing.readers import num_readers, writer_bytes

# One reader and one writer run next to the pools; each has this many CPUs (jobs/edit/graph.py).
READ_WRITE_CPUS = 0.25
# If the other layout is faster by this factor, run.layout=auto takes it (with fewer actors also at
# the same rate); otherwise a warning names it.
BETTER = 1.05
# A worker counts as hung after this many times the measured time of a part, but not before
# HANG_MIN_S (slow disks, busy neighbors) and at the latest after HANG_MAX_S.
HANG_TIMES, HANG_MIN_S, HANG_MAX_S = 10.0, 600.0, 3600.0
# Usable share of a device's memory; the rest is for the allocator and for images larger than those
# measured.
MEMORY_SHARE = 0.8


@dataclass(frozen=True)
class Estimate:
    """What a run will take, as far as that is known before it starts."""

    layout: str
    sizes: dict[str, int]  # actors by pool
    busy: dict[str, float]  # share of the time that each pool works
    images_per_s: float | None = None  # once all pools work; None: no seconds are known
    other_images_per_s: float | None = None  # of the other layout, if it fits
    edits: int | None = None
    wall_s: float | None = None  # includes the start of the actors, but not the start of Ray
    device_hours: float | None = None  # of all GPUs of the cluster; on a CPU, of all actors
    money: float | None = None
    silence_s: float = HANG_MAX_S  # a worker without a heartbeat for this long counts as hung
    micro_batch: dict[str, int] = field(default_factory=dict)  # recommended, if memory is known
    readers: int = 1  # shards that are read at once
    write_memory_bytes: int | None = None  # that a task which finishes a part reserves
    memory_bytes: dict[str, int] = field(default_factory=dict)  # that an actor reserves, by pool
    device_bytes: int = 0  # memory of a GPU, if it was measured

    def compared_with(self, images_per_s: float | None) -> PlanOutcome:
        """The estimate beside the actual rate, for the summary.

        Args:
            images_per_s: from the first part to the last one; None: fewer than two parts.
        """
        ratio = None
        if images_per_s is not None and self.images_per_s:
            ratio = images_per_s / self.images_per_s
        return PlanOutcome(
            layout=self.layout,
            actors=self.sizes,
            wall_s=self.wall_s,
            device_hours=self.device_hours,
            images_per_s=self.images_per_s,
            images_per_s_after_start=images_per_s,
            ratio=ratio,
        )


def estimate(
    config: Config,
    device: str,
    costs: Costs,
    nodes: Sequence[Node],
    edits: int | None,
    largest_shard: int = 0,
) -> Estimate:
    """Sizes the pools of a run. Sizes that the config sets are kept.

    Args:
        config: the run; this function resolves ``auto`` in layout and actors.
        device: "cpu" or "cuda".
        costs: of an edit on one actor.
        nodes: of the cluster.
        edits: number of edits left to do; None: not known.
        largest_shard: bytes of the largest shard to read.

    Raises:
        PoolsDoNotFitError: no allowed layout fits.
    """
    layouts = ("pools", "fused")
    found_pools = {name: _pools(config, device, costs, nodes, name) for name in layouts}
    writer = writer_bytes(config, costs, nodes, largest_shard)
    found = {
        name: _allocation(config, device, costs, nodes, found_pools[name], writer or 0)
        for name in layouts
    }
    chosen = config.run.layout
    if chosen == "auto":
        chosen = "fused" if _is_fused_better(found["fused"], found["pools"]) else "pools"
    sizes, rate = found[chosen]
    if not sizes:
        raise PoolsDoNotFitError(
            f"run.layout={config.run.layout}: the smallest pools do not fit; memory that an actor "
            f"reserves for {PARTS_IN_ACTOR} parts of run.part_size={config.run.part_size}: "
            + ", ".join(f"{p.name} {p.memory_bytes / 1e9:.1f} GB" for p in found_pools[chosen])
            + " (stages.*.memory_bytes)"
        )
    other = found[layouts[1 - layouts.index(chosen)]]
    pools = found_pools[chosen]
    busy = {p.name: min(1.0, p.seconds * rate / sizes[p.name]) for p in pools}
    known = costs.source != "evaluations"
    wall_s = _wall_s(config, costs, rate, edits) if known and edits is not None else None
    devices = sum(node.gpus for node in nodes) if device == "cuda" else sum(sizes.values())
    hours = None if wall_s is None else wall_s * devices / 3600
    price = config.report.price_per_device_hour
    return Estimate(
        layout=chosen,
        sizes=sizes,
        busy=busy,
        images_per_s=rate if known else None,
        other_images_per_s=other[1] if known and other[0] else None,
        edits=edits,
        wall_s=wall_s,
        device_hours=hours,
        money=None if hours is None or price is None else hours * price,
        silence_s=_silence_s(config, costs) if known else HANG_MAX_S,
        micro_batch=_micro_batches(config, costs, device),
        readers=num_readers(config, costs, nodes, sizes, rate, largest_shard),
        write_memory_bytes=writer,
        memory_bytes={p.name: int(p.memory_bytes) for p in pools},
        device_bytes=costs.device_bytes,
    )


def sized(config: Config, expected: Estimate) -> Config:
    """The configuration with the layout, readers, actors and their memory of the estimate."""
    stages = config.stages
    for pool, size in expected.sizes.items():
        name = "decode" if pool == "fused" else pool
        memory = expected.memory_bytes.get(pool) or None
        update = {"actors": size, "memory_bytes": memory}
        stage = getattr(stages, name).model_copy(update=update)
        stages = stages.model_copy(update={name: stage})
    tasks = {"readers": expected.readers, "write_memory_bytes": expected.write_memory_bytes}
    run = config.run.model_copy(update={"layout": expected.layout, **tasks})
    return config.model_copy(update={"stages": stages, "run": run})


def is_sized(config: Config) -> bool:
    """Whether the config sets the layout and the size of every pool."""
    if config.run.layout == "auto":
        return False
    return all(config.pool_stage(pool).actors != "auto" for pool in config.pools)


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


def _allocation(
    config: Config,
    device: str,
    costs: Costs,
    nodes: Sequence[Node],
    pools: list[Pool],
    writer: int,
) -> tuple[dict[str, int], float]:
    """Sizes and rate of a layout's pools; no sizes if they do not fit.

    Args:
        writer: bytes that a task reserves which finishes parts.
    """
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


def _is_fused_better(
    fused: tuple[dict[str, int], float], pools: tuple[dict[str, int], float]
) -> bool:
    """Whether layout fused is faster, or as fast with fewer actors, each of which loads a model.

    Args:
        fused, pools: sizes and rate of either layout; no sizes: it does not fit.
    """
    (fused_sizes, fused_rate), (pools_sizes, pools_rate) = fused, pools
    fewer = sum(fused_sizes.values()) < sum(pools_sizes.values())
    return fused_rate >= pools_rate * (1.0 if fewer else BETTER)


def _wall_s(config: Config, costs: Costs, rate: float, edits: int) -> float:
    """Loading, the first part's time in all but the slowest pool, then all edits at ``rate``."""
    seconds = costs.stage_seconds(config)
    first = min(config.run.part_size, edits) * (sum(seconds.values()) - max(seconds.values()))
    return costs.load_s + first + edits / rate


def _silence_s(config: Config, costs: Costs) -> float:
    part_s = config.run.part_size * max(costs.seconds.values())
    return min(HANG_MAX_S, max(HANG_MIN_S, HANG_TIMES * part_s))


def _micro_batches(config: Config, costs: Costs, device: str) -> dict[str, int]:
    """The largest power of two whose rows fit next to the weights, on a calibrated GPU."""
    found: dict[str, int] = {}
    if device != "cuda" or not costs.device_bytes:
        return found
    pools = config.stages_by_pool(config.run.layout)
    pool_of = {stage: pool for pool, stages in pools.items() for stage in stages}
    for name, peak in costs.peak_bytes.items():
        stage = config.pool_stage(pool_of[name])
        share = min(1.0, stage.gpus_per_actor(device) or 1.0)
        room = MEMORY_SHARE * share * costs.device_bytes - costs.weights_bytes
        row = max(1.0, (peak - costs.weights_bytes) / max(1, costs.rows.get(name, 1)))
        found[name] = 1 << max(0, int(math.log2(max(1.0, room / row))))
    return found
