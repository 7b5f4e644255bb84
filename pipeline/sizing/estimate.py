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
from pipeline.sizing.layouts import allocations, chosen_layout
from pipeline.sizing.pools import Node
from pipeline.sizing.readers import num_readers, writer_bytes

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
    writer = writer_bytes(config, costs, nodes, largest_shard)
    found = allocations(config, device, costs, nodes, writer or 0)
    layout = chosen_layout(config, found)
    pools, sizes, rate = found[layout].pools, found[layout].sizes, found[layout].rate
    (other,) = (found[name] for name in found if name != layout)
    known = costs.source != "evaluations"
    wall_s = _wall_s(config, costs, rate, edits) if known and edits is not None else None
    devices = sum(node.gpus for node in nodes) if device == "cuda" else sum(sizes.values())
    hours = None if wall_s is None else wall_s * devices / 3600
    price = config.report.price_per_device_hour
    return Estimate(
        layout=layout,
        sizes=sizes,
        busy={p.name: min(1.0, p.seconds * rate / sizes[p.name]) for p in pools},
        images_per_s=rate if known else None,
        other_images_per_s=other.rate if known and other.sizes else None,
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
