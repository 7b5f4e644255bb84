"""How many actors each pool gets, for the best rate on the given machines. No Ray, no torch.

Edits stream at the rate of the slowest pool (actors / seconds per edit). The best whole numbers are
found exactly: the best rate is the rate of some pool at some size, so a binary search over all such
rates finds the highest one whose smallest allocation fits.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

# Rates are quotients of measured seconds: a rounding error must not add an actor.
SLACK = 1e-9


@dataclass(frozen=True, order=True)
class Node:
    """The resources of a machine for actors and tasks."""

    cpus: float
    gpus: float = 0.0
    memory_bytes: float = 0.0
    object_store_bytes: float = 0.0


@dataclass(frozen=True)
class Pool:
    """A pool of equal actors."""

    name: str
    seconds: float  # one actor's time for one edit; 0: it takes no time
    cpus: float = 0.0  # reserved by each actor
    gpus: float = 0.0  # reserved by each actor: a fraction of one, or a whole number
    memory_bytes: float = 0.0  # reserved by each actor
    actors: int | None = None  # number of actors, if the config sets it
    max_actors: int | None = None  # if the config does not


class PoolsDoNotFitError(ValueError):
    """The smallest pools need more resources than the machines have."""


def rate_of(pools: Sequence[Pool], sizes: Mapping[str, int]) -> float:
    """Edits per second of the slowest pool; infinite if no pool takes time."""
    return min((sizes[p.name] / p.seconds for p in pools if p.seconds > 0), default=math.inf)


def best_sizes(
    pools: Sequence[Pool],
    nodes: Sequence[Node],
    *,
    others: Sequence[Pool] = (),
    max_per_s: float = math.inf,
) -> dict[str, int]:
    """The smallest allocation among those that fit and give the best rate.

    Args:
        pools: a pool with ``actors`` keeps that size.
        nodes: the machines.
        others: pools of a fixed size (``actors`` is set) that need resources too.
        max_per_s: another bound on the rate, e.g. of the CPUs; more actors would gain nothing.

    Raises:
        PoolsDoNotFitError: one actor per pool, or the sizes that the config sets, do not fit.
    """
    free = [pool for pool in pools if pool.actors is None]
    smallest = _sizes_at(pools, 0.0)
    if not fits([*pools, *others], {**smallest, **_fixed(others)}, nodes):
        raise PoolsDoNotFitError(f"the smallest pools do not fit: {smallest}")
    ceiling = min(max_per_s, *(_max_rate(pool) for pool in pools), math.inf)
    rates = sorted(
        {rate for pool in free for rate in _rates(pool, nodes) if rate < ceiling}
        | ({ceiling} if math.isfinite(ceiling) else set())
    )
    low, high = 0, len(rates)  # rates[:low] fit
    while low < high:
        middle = (low + high) // 2
        sizes = _sizes_at(pools, rates[middle])
        if fits([*pools, *others], {**sizes, **_fixed(others)}, nodes):
            low = middle + 1
        else:
            high = middle
    return _sizes_at(pools, rates[low - 1]) if low else smallest


def fits(pools: Sequence[Pool], sizes: Mapping[str, int], nodes: Sequence[Node]) -> bool:
    """Whether all actors fit: best-fit packing, the largest actors first.

    An actor with a fraction of a GPU is placed on one GPU. The packing is exact if the fractions
    divide each other (1, 1/2, 1/4) and GPUs are the only scarce resource.
    """
    room = [_Room(node) for node in nodes]
    for pool in sorted(pools, key=lambda p: (p.gpus, p.cpus, p.memory_bytes), reverse=True):
        for _ in range(sizes[pool.name]):
            best = min(room, key=lambda place: place.waste(pool), default=None)
            if best is None or not best.take(pool):
                return False
    return True


class _Room:
    """The free resources of a node."""

    def __init__(self, node: Node) -> None:
        self.cpus, self.memory_bytes = node.cpus, node.memory_bytes
        self.gpus = [1.0] * int(node.gpus + SLACK)

    def waste(self, pool: Pool) -> float:
        """What an actor would leave free on its GPU; less is better, infinite means no room."""
        if pool.cpus > self.cpus + SLACK or pool.memory_bytes > self.memory_bytes:
            return math.inf
        if pool.gpus <= 0:
            return len(self.gpus)  # keep nodes with GPUs for actors that need GPUs
        if pool.gpus >= 1:
            whole = sum(free >= 1 for free in self.gpus)
            return whole - pool.gpus if whole >= pool.gpus - SLACK else math.inf
        return min((f - pool.gpus for f in self.gpus if f >= pool.gpus - SLACK), default=math.inf)

    def take(self, pool: Pool) -> bool:
        """Places one actor; False if there is no room."""
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
    """The fewest actors of each pool that reach a rate."""
    needed = {p.name: max(1, math.ceil(p.seconds * rate - SLACK)) for p in pools}
    return {p.name: needed[p.name] if p.actors is None else p.actors for p in pools}


def _max_rate(pool: Pool) -> float:
    """The rate of a pool with all the actors that it may have, whatever the machines hold."""
    actors = pool.actors if pool.actors is not None else pool.max_actors
    return math.inf if actors is None or pool.seconds <= 0 else actors / pool.seconds


def _rates(pool: Pool, nodes: Sequence[Node]) -> list[float]:
    """The rates of a pool with 1, 2, 3, ... actors, as many as the machines can hold."""
    if pool.seconds <= 0:
        return []
    gpus, cpus = sum(node.gpus for node in nodes), sum(node.cpus for node in nodes)
    bounds = [cpus / pool.cpus] if pool.cpus > 0 else []
    bounds += [gpus / pool.gpus] if pool.gpus > 0 else []
    if not bounds:  # its actors reserve nothing: one per CPU
        bounds = [cpus]
    return [count / pool.seconds for count in range(1, int(min(bounds) + SLACK) + 1)]


def _fixed(pools: Sequence[Pool]) -> dict[str, int]:
    return {pool.name: pool.actors or 0 for pool in pools}
