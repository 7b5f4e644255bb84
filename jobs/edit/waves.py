"""The waves of a run: each has shards, and pools for the nodes that are there as it begins."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from jobs.edit.devices import cluster_nodes
from jobs.edit.progress import RunProgress
from jobs.logs import tell
from pipeline.plan.plan import Plan, ShardWork
from pipeline.sizing.costs import Costs
from pipeline.sizing.estimate import Estimate, estimate, is_sized, sized
from pipeline.sizing.pools import Node, PoolsDoNotFitError
from pipeline.sizing.waves import Pace, next_wave


@dataclass(frozen=True)
class SizedPlan:
    """A plan whose pools have sizes, and what they were found from."""

    plan: Plan  # with sizes
    asked: Plan  # as configured: sizes may be auto
    costs: Costs
    nodes: Sequence[Node]
    expected: Estimate


def sized_plan(asked: Plan, costs: Costs, nodes: Sequence[Node], edits: int | None) -> SizedPlan:
    """Sizes a plan for the nodes of the cluster.

    Args:
        asked: with work to do.
        costs: of an edit.
        nodes: of the cluster.
        edits: about how many are left to do; None: not known.

    Raises:
        PoolsDoNotFitError: no allowed layout fits.
    """
    largest = max(work.shard.size for work in asked.work)
    expected = estimate(asked.config, asked.device, costs, nodes, edits, largest)
    plan = replace(asked, config=sized(asked.config, expected))
    return SizedPlan(plan, asked, costs, nodes, expected)


def waves(sizes: SizedPlan, progress: RunProgress) -> Iterator[tuple[Plan, list[ShardWork]]]:
    """Each wave's plan and shards. The plan has the sizes of the pools in that wave.

    Args:
        sizes: for the first wave.
        progress: of the run; it tells the rate and how large shards are.
    """
    work = sizes.plan.work
    while work:
        pace = Pace(
            progress.images_per_s_after_start or sizes.expected.images_per_s,
            progress.left.edits_per_byte or sizes.costs.edits_per_byte,
            sizes.costs.load_s,
        )
        wave = next_wave(work, sizes.asked.config, pace)
        yield sizes.plan, wave
        work = work[len(wave) :]
        if work:
            sizes = resized(sizes, cluster_nodes(), progress.left.estimate())


def resized(before: SizedPlan, nodes: Sequence[Node], edits: float | None) -> SizedPlan:
    """The plan with pools for other nodes; as before if all sizes are set, or none would fit.

    Bytes do not depend on sizes, nor on the layout. A node that was lost may come back: then Ray
    starts what does not fit now.
    """
    if is_sized(before.asked.config) or sorted(nodes) == sorted(before.nodes):
        return before
    left = None if edits is None else round(edits)
    try:
        found = sized_plan(before.asked, before.costs, nodes, left)
    except PoolsDoNotFitError:
        return before
    if found.expected.sizes != before.expected.sizes:
        sizes = ", ".join(f"{pool} {size}" for pool, size in found.expected.sizes.items())
        cpus, gpus = sum(node.cpus for node in nodes), sum(node.gpus for node in nodes)
        tell(
            f"the cluster has {len(nodes)} nodes now, {cpus:g} CPUs, {gpus:g} GPUs; actors from "
            f"here on: {sizes}"
        )
    return found
