"""How many actors each pool gets: the best rate that the machines can hold. No Ray, no torch.

A stream of edits runs at the rate of its slowest pool, actors over seconds an edit. The best whole
numbers are found exactly: the rate is always that of some pool at some size, and what a rate needs
at least of every pool either fits or does not.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

# Rates are quotients of measured seconds; a last bit must not make a whole number the next one.
SLACK = 1e-9


@dataclass(frozen=True)
class Node:
    """What a machine has for actors and tasks."""

    cpus: float
    gpus: float = 0.0
    memory_bytes: float = 0.0
    object_store_bytes: float = 0.0


@dataclass(frozen=True)
class Pool:
    """A pool of equal actors."""

    name: str
    seconds: float  # that one actor takes for one edit; 0: it does nothing
    cpus: float = 0.0  # reserved by each actor
    gpus: float = 0.0  # likewise: a fraction of one, or a whole number
    memory_bytes: float = 0.0  # likewise
    actors: int | None = None  # set by hand
    most: int | None = None  # actors at most, where not set by hand


class PoolsDoNotFitError(ValueError):
    """The smallest pools need more than there is."""


def rate_of(pools: Sequence[Pool], sizes: Mapping[str, int]) -> float:
    """Edits a second of the slowest pool; infinite where no pool takes time."""
    return min((sizes[p.name] / p.seconds for p in pools if p.seconds > 0), default=math.inf)


def best_sizes(
    pools: Sequence[Pool],
    nodes: Sequence[Node],
    *,
    beside: Sequence[Pool] = (),
    most_per_s: float = math.inf,
) -> dict[str, int]:
    """The fewest actors that give the best rate of all allocations that fit.

    Args:
        pools: those with ``actors`` keep them.
        nodes: the machines.
        beside: what else must find room, one pool a kind, with ``actors`` given.
        most_per_s: a rate above which nothing is gained, e.g. that of the CPUs.

    Raises:
        PoolsDoNotFitError: one actor a pool, or the number set by hand, is more than there is.
    """
    free = [pool for pool in pools if pool.actors is None]
    smallest = _sizes_at(pools, 0.0)
    if not fits([*pools, *beside], {**smallest, **_fixed(beside)}, nodes):
        raise PoolsDoNotFitError(f"the smallest pools do not fit: {smallest}")
    ceiling = min(most_per_s, *(_most_of(pool) for pool in pools), math.inf)
    rates = sorted(
        {rate for pool in free for rate in _rates(pool, nodes) if rate < ceiling}
        | ({ceiling} if math.isfinite(ceiling) else set())
    )
    low, high = 0, len(rates)  # rates[:low] fit
    while low < high:
        middle = (low + high) // 2
        sizes = _sizes_at(pools, rates[middle])
        if fits([*pools, *beside], {**sizes, **_fixed(beside)}, nodes):
            low = middle + 1
        else:
            high = middle
    return _sizes_at(pools, rates[low - 1]) if low else smallest


def fits(pools: Sequence[Pool], sizes: Mapping[str, int], nodes: Sequence[Node]) -> bool:
    """Whether all actors find a place, the greediest first, each in the fullest one that has room.

    An actor with a fraction of a GPU lies on one GPU. For fractions that divide each other (1, 1/2,
    1/4) and no shortage of the rest this finds a place wherever there is one.
    """
    room = [_Room(node) for node in nodes]
    for pool in sorted(pools, key=lambda p: (p.gpus, p.cpus, p.memory_bytes), reverse=True):
        for _ in range(sizes[pool.name]):
            best = min(room, key=lambda place: place.waste(pool), default=None)
            if best is None or not best.take(pool):
                return False
    return True


class _Room:
    """What is left of a node."""

    def __init__(self, node: Node) -> None:
        self.cpus, self.memory_bytes = node.cpus, node.memory_bytes
        self.gpus = [1.0] * int(node.gpus + SLACK)

    def waste(self, pool: Pool) -> float:
        """Less is better: what stays of the GPU that an actor would share; infinite: no room."""
        if pool.cpus > self.cpus + SLACK or pool.memory_bytes > self.memory_bytes:
            return math.inf
        if pool.gpus <= 0:
            return len(self.gpus)  # keep nodes with GPUs for those who need them
        if pool.gpus >= 1:
            whole = sum(free >= 1 for free in self.gpus)
            return whole - pool.gpus if whole >= pool.gpus - SLACK else math.inf
        return min((f - pool.gpus for f in self.gpus if f >= pool.gpus - SLACK), default=math.inf)

    def take(self, pool: Pool) -> bool:
        """Places one actor; false where there is no room."""
        if math.isinf(self.waste(pool)):
            return False
        self.cpus -= pool.cpus
        self.memory_bytes -= pool.memory_bytes
        self.gpus.sort()
        if 0 < pool.gpus < 1:
            index = next(i for i, free in enumerate(self.gpus) if free >= pool.gpus - SLACK)
            self.gpus[index] -= pool.gpus
        elif pool.gpus >= 1:
            del self.gpus[-round(pool.gpus) :]
        return True


def _sizes_at(pools: Sequence[Pool], rate: float) -> dict[str, int]:
    """The fewest actors of each pool that keep up with a rate."""
    needed = {p.name: max(1, math.ceil(p.seconds * rate - SLACK)) for p in pools}
    return {p.name: needed[p.name] if p.actors is None else p.actors for p in pools}


def _most_of(pool: Pool) -> float:
    """The rate that a pool cannot exceed, whatever the machines hold."""
    most = pool.actors if pool.actors is not None else pool.most
    return math.inf if most is None or pool.seconds <= 0 else most / pool.seconds


def _rates(pool: Pool, nodes: Sequence[Node]) -> list[float]:
    """The rates at which one more actor of a pool is needed."""
    if pool.seconds <= 0:
        return []
    gpus, cpus = sum(node.gpus for node in nodes), sum(node.cpus for node in nodes)
    bounds = [cpus / pool.cpus] if pool.cpus > 0 else []
    bounds += [gpus / pool.gpus] if pool.gpus > 0 else []
    if not bounds:  # they reserve nothing: as many as there are CPUs
        bounds = [cpus]
    return [count / pool.seconds for count in range(1, int(min(bounds) + SLACK) + 1)]


def _fixed(pools: Sequence[Pool]) -> dict[str, int]:
    return {pool.name: pool.actors or 0 for pool in pools}
