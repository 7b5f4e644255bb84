"""An actor holds two parts, and Ray is asked to reserve memory for them."""

from __future__ import annotations

from unittest import mock

import pytest

from jobs.edit.graph import actor_resources, pool_options
from pipeline.config.config import Config
from pipeline.config.stages import STAGES
from pipeline.models.loading import LatentDiffusion
from pipeline.plan.plan import Plan
from pipeline.records.packing import pack
from pipeline.sizing.costs import Costs
from pipeline.sizing.estimate import estimate, sized
from pipeline.sizing.part_memory import counted_edit_bytes
from pipeline.sizing.pools import Node, PoolsDoNotFitError
from tests.parts import make_config, make_part, make_prepared, run_stages

GB = 10**9
COSTS = Costs(
    source="calibration",
    seconds={"mask": 0.1, "encode": 0.2, "decode": 0.4},
    edits=8,
    edit_bytes={"prepare": 1e6, "mask": 1.1e6, "encode": 2.5e6, "decode": 1e6},
)


def config(layout: str = "pools", **decode: int) -> Config:
    tree = {
        "input": {"shards": "in/*.tar"},
        "output": {"path": "out"},
        "run": {"layout": layout, "part_size": 100},
        "stages": {"decode": decode},
    }
    return Config.model_validate(tree)


@pytest.mark.parametrize(
    ("layout", "reserved"),
    [
        ("pools", {"mask": 220_000_000, "encode": 500_000_000, "decode": 200_000_000}),
        ("fused", {"fused": 500_000_000}),  # at its largest: with the trajectories
    ],
)
def test_an_actor_reserves_memory_for_its_two_parts(layout: str, reserved: dict[str, int]) -> None:
    """As large as they are after the largest of the actor's stages; Ray gets the number."""
    expected = estimate(config(layout), "cpu", COSTS, [Node(8, memory_bytes=8 * GB)], 1000)
    assert expected.memory_bytes == reserved
    chosen = sized(config(layout), expected)
    found = {pool: actor_resources(chosen, pool, "cpu")["memory"] for pool in chosen.pools}
    assert found == reserved


def test_a_pool_never_holds_more_parts_than_it_reserves_memory_for() -> None:
    """Ray sends two parts to an actor and no third one that waits."""
    chosen = sized(config(), estimate(config(), "cpu", COSTS, [Node(8, memory_bytes=8 * GB)], 1000))
    strategy = pool_options(chosen, "mask", "cpu")["compute"]
    assert strategy.max_tasks_in_flight_per_actor == 2
    assert strategy.max_concurrent_calls_per_actor == 2


def test_configured_memory_is_kept_and_unknown_memory_reserves_none() -> None:
    """A node that does not say how much memory it has cannot grant any."""
    given = config(memory_bytes=5)
    expected = estimate(given, "cpu", COSTS, [Node(8, memory_bytes=8 * GB)], 1000)
    assert expected.memory_bytes["decode"] == 5
    unknown = estimate(config(), "cpu", COSTS, [Node(8, memory_bytes=8 * GB), Node(8)], 1000)
    assert set(unknown.memory_bytes.values()) == {0}
    assert "memory" not in actor_resources(sized(config(), unknown), "mask", "cpu")


def test_parts_limit_the_number_of_actors() -> None:
    """Two nodes of one core's worth of memory get fewer actors than their cores allow."""
    roomy, tight = (
        estimate(config(), "cpu", COSTS, [Node(16, memory_bytes=size * GB)], 1000).sizes
        for size in (100, 2)
    )
    assert sum(roomy.values()) > sum(tight.values()) >= 3


def test_parts_that_do_not_fit_are_an_error_that_names_the_keys() -> None:
    """The user can make parts smaller, or say how much an actor shall reserve."""
    with pytest.raises(PoolsDoNotFitError, match=r"encode 0\.5 GB.*stages\.\*\.memory_bytes") as e:
        estimate(config(), "cpu", COSTS, [Node(8, memory_bytes=0.4 * GB)], 1000)
    assert "run.part_size=100" in str(e.value)


@pytest.mark.parametrize("name", ["diffedit", "sdedit"])
def test_counted_bytes_are_those_of_a_packed_part(name: str, tiny_model: LatentDiffusion) -> None:
    """What is counted from shapes is within a tenth of what travels, after every stage."""
    chosen = make_config(name=name)
    chosen = chosen.model_copy(update={"model": chosen.model.model_copy(update={"size": 256})})
    samples = [make_prepared(number, size=256) for number in range(2)]
    part = make_part(*samples)
    counted = counted_edit_bytes(mock.Mock(spec=Plan, config=chosen, model=tiny_model.info))
    for stage in ("prepare", *STAGES):
        if stage != "prepare":
            part = run_stages(tiny_model, part, chosen, [stage])
        assert [edit.pending for edit in part.edits] == [True, True]
        assert pack(part).nbytes / 2 == pytest.approx(counted[stage], rel=0.1), stage
