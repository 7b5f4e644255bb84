"""The waves of a run: each has shards, and pools for the nodes that are there as it begins."""

from __future__ import annotations

from collections.abc import Sequence
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


class Waves:
    """The waves of a run, one after the other.

    Attributes:
        sizes: the plan with the pools of the wave that ``next`` returned.
    """

    def __init__(self, sizes: SizedPlan, progress: RunProgress) -> None:
        """
        Args:
            sizes: for the first wave.
            progress: of the run; it tells the rate and how large shards are.
        """
        self.sizes, self._progress = sizes, progress
        self._left = sizes.plan.work
        self._is_first = True

    def next(self) -> list[ShardWork]:
        """The shards of the next wave; none: all had their wave. ``sizes`` are for it."""
        if self._left and not self._is_first:
            edits = self._progress.left.estimate()
            self.sizes = _told(self.sizes, resized(self.sizes, cluster_nodes(), edits))
        self._is_first = False
        pace = Pace(
            self._progress.images_per_s_after_start or self.sizes.expected.images_per_s,
            self._progress.left.edits_per_byte or self.sizes.costs.edits_per_byte,
            self.sizes.costs.load_s,
        )
        wave = next_wave(self._left, self.sizes.asked.config, pace)
        self._left = self._left[len(wave) :]
        return wave

    def repeat(self, wave: list[ShardWork]) -> None:
        """Puts what is not done of a wave in front of what is left. Lists the output."""
        to_do = {item.shard.name: item for item in self.sizes.asked.still_to_do().work}
        again = [to_do[item.shard.name] for item in wave if item.shard.name in to_do]
        self._left = [*again, *self._left]


def resized(before: SizedPlan, nodes: Sequence[Node], edits: float | None) -> SizedPlan:
    """The plan with pools for other nodes; as before if all sizes are set, or none would fit.

    Bytes do not depend on sizes, nor on the layout. A node that was lost may come back: then Ray
    starts what does not fit now.
    """
    if is_sized(before.asked.config) or sorted(nodes) == sorted(before.nodes):
        return before
    left = None if edits is None else round(edits)
    try:
        return sized_plan(before.asked, before.costs, nodes, left)
    except PoolsDoNotFitError:
        return before


def _told(before: SizedPlan, now: SizedPlan) -> SizedPlan:
    """The later plan; says what its pools are, if they are others."""
    if now.expected.sizes != before.expected.sizes:
        sizes = ", ".join(f"{pool} {size}" for pool, size in now.expected.sizes.items())
        cpus, gpus = sum(node.cpus for node in now.nodes), sum(node.gpus for node in now.nodes)
        tell(
            f"the cluster has {len(now.nodes)} nodes now, {cpus:g} CPUs, {gpus:g} GPUs; actors "
            f"from here on: {sizes}"
        )
    return now
