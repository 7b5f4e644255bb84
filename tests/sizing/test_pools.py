"""The sizes of the pools: they fit, and no better sizes exist."""

from __future__ import annotations

import itertools
import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.sizing.pools import Node, Pool, PoolsDoNotFitError, best_sizes, fits, rate_of

PAPER = {"mask": 0.14, "encode": 0.29, "decode": 0.57}  # seconds per edit on one GPU


def pools(gpus: float = 1.0, **actors: int) -> list[Pool]:
    return [Pool(name, s, 0.25, gpus, actors=actors.get(name)) for name, s in PAPER.items()]


@pytest.mark.parametrize(
    ("gpus", "sizes"),
    [(3, (1, 1, 1)), (4, (1, 1, 2)), (8, (1, 3, 4)), (14, (2, 4, 8)), (100, (14, 29, 57))],
)
def test_whole_gpus_are_shared_by_cost(gpus: int, sizes: tuple[int, ...]) -> None:
    """Sizes worked out by hand for the paper's costs, 14 : 29 : 57."""
    found = best_sizes(pools(), [Node(64, gpus)])
    assert tuple(found.values()) == sizes


def test_pools_of_a_fixed_size_keep_it() -> None:
    """One encoder bounds the rate at 1 / 0.29, for which two decoders are enough."""
    found = best_sizes(pools(encode=1), [Node(64, 100)])
    assert found == {"mask": 1, "encode": 1, "decode": 2}


def test_a_bound_on_the_rate_limits_the_actors() -> None:
    """If the CPUs allow two edits per second, more actors would only wait."""
    found = best_sizes(pools(), [Node(64, 100)], max_per_s=2.0)
    assert found == {"mask": 1, "encode": 1, "decode": 2}


def test_fractions_share_a_gpu_and_never_span_two() -> None:
    """Two GPUs hold four actors with a half each, but only two with two thirds each."""
    two = [Node(64, 2)]
    assert best_sizes(pools(0.5), two) == {"mask": 1, "encode": 1, "decode": 2}
    with pytest.raises(PoolsDoNotFitError):
        best_sizes(pools(2 / 3), two)


def test_an_actor_never_spans_two_nodes() -> None:
    """An actor with two GPUs does not fit on two machines with one GPU each."""
    actor = [Pool("fused", 1.0, 0.25, gpus=2.0)]
    assert best_sizes(actor, [Node(8, 2)]) == {"fused": 1}
    with pytest.raises(PoolsDoNotFitError):
        best_sizes(actor, [Node(8, 1), Node(8, 1)])


def test_memory_and_other_actors_limit_the_pools() -> None:
    """Ten bytes hold two actors with four each; a reader's CPU is not free for them."""
    actor = [Pool("fused", 1.0, cpus=1.0, memory_bytes=4)]
    assert best_sizes(actor, [Node(8, memory_bytes=10)]) == {"fused": 2}
    reader = Pool("reader", 0.0, cpus=1.0, actors=1)
    assert best_sizes(actor, [Node(2, memory_bytes=10)], others=[reader]) == {"fused": 1}


def test_a_thousand_gpus_are_shared_well() -> None:
    """The rate is within 0.5 % of the bound for divisible GPUs."""
    found = best_sizes(pools(), [Node(64, 8) for _ in range(125)])
    assert sum(found.values()) <= 1000
    assert rate_of(pools(), found) > 0.995 * 1000


FRACTIONS = st.sampled_from([0.0, 0.25, 0.5, 1.0, 2.0])
NODES = st.lists(
    st.builds(Node, st.sampled_from([1.0, 2.0]), st.sampled_from([0.0, 1.0, 2.0])),
    min_size=1,
    max_size=2,
)
POOLS = st.lists(
    st.tuples(st.sampled_from([0.1, 0.3, 1.0, 1.7]), st.sampled_from([0.5, 1.0]), FRACTIONS),
    min_size=1,
    max_size=3,
).map(lambda rows: [Pool(f"pool{i}", *row) for i, row in enumerate(rows)])


@given(POOLS, NODES)
@settings(max_examples=100, deadline=None)
def test_pools_never_exceed_the_resources(pools: list[Pool], nodes: list[Node]) -> None:
    """All actors together reserve at most what the nodes have; each pool has one or more."""
    try:
        sizes = best_sizes(pools, nodes)
    except PoolsDoNotFitError:
        return
    assert all(size >= 1 for size in sizes.values())
    for kind in ("cpus", "gpus"):
        reserved = sum(getattr(pool, kind) * sizes[pool.name] for pool in pools)
        assert reserved <= sum(getattr(node, kind) for node in nodes) + 1e-6


@given(POOLS, NODES, st.sampled_from([math.inf, 0.7, 3.0]))
@settings(max_examples=80, deadline=None)
def test_no_better_integer_allocation_exists(
    pools: list[Pool], nodes: list[Node], max_per_s: float
) -> None:
    """Of all allocations that fit, none is faster, and none as fast is smaller."""
    names = [pool.name for pool in pools]
    counts_of = [range(1, _max_actors(pool, nodes) + 1) for pool in pools]
    allocations = [
        dict(zip(names, counts, strict=True)) for counts in itertools.product(*counts_of)
    ]
    fitting = [sizes for sizes in allocations if fits(pools, sizes, nodes)]
    if not fitting:
        with pytest.raises(PoolsDoNotFitError):
            best_sizes(pools, nodes, max_per_s=max_per_s)
        return
    found = best_sizes(pools, nodes, max_per_s=max_per_s)
    assert fits(pools, found, nodes)

    def rate(sizes: dict[str, int]) -> float:
        return min(max_per_s, rate_of(pools, sizes))

    best = max(rate(sizes) for sizes in fitting)
    assert rate(found) == pytest.approx(best)
    smallest = min(sum(s.values()) for s in fitting if rate(s) >= best * (1 - 1e-9))
    assert sum(found.values()) == smallest


def _max_actors(pool: Pool, nodes: list[Node]) -> int:
    cpus = int(sum(node.cpus for node in nodes) / pool.cpus)
    gpus = int(sum(node.gpus for node in nodes) / pool.gpus) if pool.gpus else cpus
    return max(1, min(cpus, gpus))


@given(st.lists(st.sampled_from([0.25, 0.5, 1.0]), max_size=6), st.integers(1, 3))
@settings(max_examples=60, deadline=None)
def test_fractions_fit_whenever_a_placement_exists(shares: list[float], gpus: int) -> None:
    """Compared with all ways to place the actors on GPUs."""
    actors = [Pool(f"pool{i}", 1.0, 0.0, share) for i, share in enumerate(shares)]
    possible = any(
        all(sum(s for s, g in zip(shares, ways, strict=True) if g == gpu) <= 1 for gpu in ways)
        for ways in itertools.product(range(gpus), repeat=len(shares))
    )
    sizes = {actor.name: 1 for actor in actors}
    assert fits(actors, sizes, [Node(1.0, gpus)]) == possible
