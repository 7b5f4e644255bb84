"""Warnings before a run starts: idle GPUs, too little memory, waves that are too short."""

from __future__ import annotations

from collections.abc import Sequence

from pipeline.config.config import Config
from pipeline.sizing.costs import Costs
from pipeline.sizing.estimate import Estimate
from pipeline.sizing.layouts import BETTER
from pipeline.sizing.part_memory import PARTS_IN_ACTOR
from pipeline.sizing.pools import Node
from pipeline.sizing.waves import STARTS_PER_WAVE

# Ray Data lets all parts use half of the object store.
STORE_SHARE = 0.5


def plan_warnings(
    expected: Estimate,
    config: Config,
    device: str,
    costs: Costs,
    nodes: Sequence[Node],
    num_shards: int,
) -> list[str]:
    """One line for each setting that the user may want to change before the run.

    Args:
        expected: the estimate for this configuration.
        config: with sizes (``sized``).
        device: "cpu" or "cuda".
        costs: of an edit.
        nodes: of the cluster.
        num_shards: number of shards left to do.
    """
    return [
        *_about_layout(expected, config, device, nodes),
        *_about_threads(expected, config, device, nodes),
        *_about_memory(expected, config, device, costs, nodes),
        *_about_time(expected, config, costs, num_shards),
    ]


def _about_layout(
    expected: Estimate, config: Config, device: str, nodes: Sequence[Node]
) -> list[str]:
    lines = []
    rate, other = expected.images_per_s, expected.other_images_per_s
    if rate is not None and other is not None and other >= rate * BETTER:
        name = "pools" if expected.layout == "fused" else "fused"
        lines.append(
            f"run.layout={name}, with the configured actors, may process {other / rate:.2f} times "
            "as many images per second"
        )
    used = sum(
        size * config.pool_stage(pool).gpus_per_actor(device)
        for pool, size in expected.sizes.items()
    )
    idle = sum(node.gpus for node in nodes) - used
    if device == "cuda" and idle >= 1:
        lines.append(f"{idle:g} GPUs of the cluster have no actor: stages.*.actors=auto uses them")
    return lines


def _about_threads(
    expected: Estimate, config: Config, device: str, nodes: Sequence[Node]
) -> list[str]:
    """Threads without reserved cores: set in the config, or taken from an earlier run."""
    threads, actors = config.threads, sum(expected.sizes.values())
    cpus = min(config.pool_stage(pool).cpus for pool in expected.sizes)
    total = sum(node.cpus for node in nodes)
    if device != "cpu" or threads <= max(1.0, cpus) or actors * threads <= total:
        return []
    return [
        f"{actors} actors with {threads} threads each need more than the {total:g} CPUs of the "
        f"cluster (each reserves only stages.*.cpus={cpus:g}), so they will slow each other down: "
        "use fewer actors, or stages.*.threads=auto (in a new output)"
    ]


def _about_memory(
    expected: Estimate, config: Config, device: str, costs: Costs, nodes: Sequence[Node]
) -> list[str]:
    lines = []
    for name, best in expected.micro_batch.items():
        size = config.pool_stage(name).micro_batch
        if size > best:
            lines.append(
                f"stages.{name}.micro_batch={size} will probably not fit into GPU memory; {best} "
                "would (in a new output)"
            )
    if device == "cpu" and costs.peak_bytes:
        peak, total = max(costs.peak_bytes.values()), sum(node.memory_bytes for node in nodes)
        needed = peak * sum(expected.sizes.values())
        if total and needed > total:
            lines.append(
                f"{sum(expected.sizes.values())} actors with {_gigabytes(peak)} each need more "
                f"than the {_gigabytes(total)} of memory of the nodes: use fewer actors or a "
                "smaller micro_batch"
            )
    store = sum(node.object_store_bytes for node in nodes) * STORE_SHARE
    flight = _bytes_in_flight(expected, config, costs)
    if store and flight > store:
        lines.append(
            f"parts in flight may take {_gigabytes(flight)}, but the object store has only "
            f"{_gigabytes(store)} for them, so pools will wait; run.part_size="
            f"{max(1, int(config.run.part_size * store / flight))} would fit (in a new output)"
        )
    return lines


def _about_time(expected: Estimate, config: Config, costs: Costs, num_shards: int) -> list[str]:
    if expected.images_per_s is None:
        return []
    lines = []
    part_s = config.run.part_size * max(costs.stage_seconds(config).values())
    limit = config.run.part_timeout_s
    if limit is not None and limit < 3 * part_s:
        lines.append(
            f"run.part_timeout_s={limit:g}: the slowest stage takes about {part_s:.0f} s for a "
            "part, so a healthy worker may be killed; raise it"
        )
    per_wave = config.run.shards_per_wave
    if expected.edits and per_wave != "auto" and num_shards > per_wave:
        share = per_wave / num_shards
        wave_s = expected.edits * share / expected.images_per_s
        if wave_s < STARTS_PER_WAVE * costs.load_s:
            lines.append(
                f"a wave of run.shards_per_wave={per_wave} shards takes about {wave_s:.0f} s, and "
                f"every wave loads the models again ({costs.load_s:.0f} s): raise it, or use auto"
            )
    return lines


def _bytes_in_flight(expected: Estimate, config: Config, costs: Costs) -> float:
    """The most bytes of parts in the object store: two inputs and one output for each actor."""
    sizes = costs.edit_bytes
    if not sizes:
        return 0.0
    before = {"mask": "prepare", "encode": "mask", "decode": "encode", "score": "decode"}
    total = 0.0
    for pool, stages in config.stages_by_pool(expected.layout).items():
        first, last, actors = stages[0], stages[-1], expected.sizes[pool]
        each = PARTS_IN_ACTOR * sizes.get(before[first], 0.0) + sizes.get(last, 0.0)
        total += actors * each * config.run.part_size
    return total


def _gigabytes(amount: float) -> str:
    return f"{amount / 1e9:.1f} GB"
