"""The sizes of the pools: as many as fit, and no better ones exist."""

from __future__ import annotations

import itertools
import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.sizing.pools import Node, Pool, PoolsDoNotFitError, best_sizes, fits, rate_of

PAPER = {"mask": 0.14, "encode": 0.29, "decode": 0.57}  # seconds an edit, of one GPU


def pools(gpus: float = 1.0, **actors: int) -> list[Pool]:
    return [Pool(name, s, 0.25, gpus, actors=actors.get(name)) for name, s in PAPER.items()]


@pytest.mark.parametrize(
    ("gpus", "sizes"),
    [(3, (1, 1, 1)), (4, (1, 1, 2)), (8, (1, 3, 4)), (14, (2, 4, 8)), (100, (14, 29, 57))],
)
def test_whole_gpus_are_shared_by_cost(gpus: int, sizes: tuple[int, ...]) -> None:
    """Worked by hand for the paper's shares, 14 : 29 : 57."""
    found = best_sizes(pools(), [Node(64, gpus)])
    assert tuple(found.values()) == sizes


def test_what_is_set_by_hand_stays_and_the_rest_follows() -> None:
    """One encoder bounds the rate at 1 / 0.29, for which two decoders are enough."""
    found = best_sizes(pools(encode=1), [Node(64, 100)])
    assert found == {"mask": 1, "encode": 1, "decode": 2}


def test_a_bound_on_the_rate_takes_no_more_than_it_needs() -> None:
    """Where the CPUs allow two edits a second, more actors would only wait."""
    found = best_sizes(pools(), [Node(64, 100)], most_per_s=2.0)
    assert found == {"mask": 1, "encode": 1, "decode": 2}


def test_fractions_share_a_gpu_and_never_span_two() -> None:
    """Two GPUs hold three actors of a half, and of two thirds but two."""
    two = [Node(64, 2)]
    assert best_sizes(pools(0.5), two) == {"mask": 1, "encode": 1, "decode": 2}
    with pytest.raises(PoolsDoNotFitError):
        best_sizes(pools(2 / 3), two)


def test_gpus_of_two_nodes_are_not_one() -> None:
    """An actor of two GPUs finds no place on two machines with one each."""
    actor = [Pool("fused", 1.0, 0.25, gpus=2.0)]
    assert best_sizes(actor, [Node(8, 2)]) == {"fused": 1}
    with pytest.raises(PoolsDoNotFitError):
        best_sizes(actor, [Node(8, 1), Node(8, 1)])


def test_memory_and_what_works_beside_the_pools_count() -> None:
    """Room of 10 bytes holds two actors of 4; a CPU kept for readers is not theirs."""
    actor = [Pool("fused", 1.0, cpus=1.0, memory_bytes=4)]
    assert best_sizes(actor, [Node(8, memory_bytes=10)]) == {"fused": 2}
    reader = Pool("reader", 0.0, cpus=1.0, actors=1)
    assert best_sizes(actor, [Node(2, memory_bytes=10)], beside=[reader]) == {"fused": 1}


def test_a_thousand_gpus_are_shared_in_a_moment() -> None:
    """The rate is within a thousandth of what GPUs that can be cut would give."""
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
def test_never_over_the_resources(pools: list[Pool], nodes: list[Node]) -> None:
    """In all, the actors reserve at most what the nodes have, and each pool has one."""
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
    pools: list[Pool], nodes: list[Node], most_per_s: float
) -> None:
    """Every allocation that fits, tried one by one: none is faster, none as fast is smaller."""
    names = [pool.name for pool in pools]
    most = [_most(pool, nodes) for pool in pools]
    allocations = [
        dict(zip(names, counts, strict=True))
        for counts in itertools.product(*(range(1, number + 1) for number in most))
    ]
    fitting = [sizes for sizes in allocations if fits(pools, sizes, nodes)]
    if not fitting:
        with pytest.raises(PoolsDoNotFitError):
            best_sizes(pools, nodes, most_per_s=most_per_s)
        return
    found = best_sizes(pools, nodes, most_per_s=most_per_s)
    assert fits(pools, found, nodes)

    def rate(sizes: dict[str, int]) -> float:
        return min(most_per_s, rate_of(pools, sizes))

    best = max(rate(sizes) for sizes in fitting)
    assert rate(found) == pytest.approx(best)
    smallest = min(sum(s.values()) for s in fitting if rate(s) >= best * (1 - 1e-9))
    assert sum(found.values()) == smallest


def _most(pool: Pool, nodes: list[Node]) -> int:
    cpus = int(sum(node.cpus for node in nodes) / pool.cpus)
    gpus = int(sum(node.gpus for node in nodes) / pool.gpus) if pool.gpus else cpus
    return max(1, min(cpus, gpus))


@given(st.lists(st.sampled_from([0.25, 0.5, 1.0]), max_size=6), st.integers(1, 3))
@settings(max_examples=60, deadline=None)
def test_fractions_find_a_place_wherever_there_is_one(shares: list[float], gpus: int) -> None:
    """Against all ways to put them on GPUs."""
    actors = [Pool(f"pool{i}", 1.0, 0.0, share) for i, share in enumerate(shares)]
    possible = any(
        all(sum(s for s, g in zip(shares, ways, strict=True) if g == gpu) <= 1 for gpu in ways)
        for ways in itertools.product(range(gpus), repeat=len(shares))
    )
    sizes = {actor.name: 1 for actor in actors}
    assert fits(actors, sizes, [Node(1.0, gpus)]) == possible
