"""Pools for the nodes that are there as a wave begins. No Ray is started."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest import mock

import pytest

from jobs.edit import waves as waves_module
from jobs.edit.waves import SizedPlan, Waves, resized, sized_plan
from pipeline.sizing.costs import Costs
from pipeline.sizing.pools import Node
from tests.fake_job import fake_plan, run_fake
from tests.samples import raw_sample, write_shard

COSTS = Costs("calibration", {"mask": 0.1, "encode": 0.2, "decode": 0.5}, 3, edits_per_byte=1e-3)
AUTO = {name: {"actors": "auto"} for name in ("mask", "encode", "decode")}
TWO = [Node(2, 0, 8e9, 1e9)]
SIX = [*TWO, Node(4, 0, 8e9, 1e9)]


def sizes_of(folder: Path, **sections: Any) -> SizedPlan:
    """A plan of three shards on two cores."""
    for number in range(3):
        write_shard(folder / f"in/{number}.tar", [raw_sample(f"{number}", ["a cat"])])
    plan = fake_plan(
        f"{folder}/in/*.tar", f"{folder}/out", **({"run": {"layout": "fused"}} | sections)
    )
    return sized_plan(plan, COSTS, TWO, 100)


def test_pools_grow_with_the_nodes(tmp_path: Path) -> None:
    """Four more cores have room for actors; what is to do stays."""
    before = sizes_of(tmp_path, stages=AUTO)
    after = resized(before, SIX, 50.0)
    assert after.expected.sizes["fused"] > before.expected.sizes["fused"]
    assert after.plan.config.stages.decode.actors == after.expected.sizes["fused"]
    assert after.plan.work == before.plan.work


def test_pools_shrink_with_the_nodes(tmp_path: Path) -> None:
    """What was found for six cores is found anew for two, from what was asked for."""
    small = sizes_of(tmp_path, stages=AUTO)
    again = resized(resized(small, SIX, None), TWO, None)
    assert again.expected.sizes == small.expected.sizes


@pytest.mark.parametrize("nodes", [[*TWO], [Node(0.25)], []])
def test_the_same_nodes_and_too_few_change_nothing(nodes: list[Node], tmp_path: Path) -> None:
    """Where nothing fits any more, Ray waits for a node to come back, as within a wave."""
    before = sizes_of(tmp_path, stages=AUTO)
    assert resized(before, nodes, 50.0) is before


def test_sizes_that_are_set_are_kept(tmp_path: Path) -> None:
    """The user's numbers hold for all waves."""
    before = sizes_of(tmp_path, stages={"decode": {"actors": 1}})
    assert resized(before, SIX, 50.0) is before


def test_every_shard_is_in_one_wave_and_nodes_are_looked_at_between(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Three waves of a shard; another node from the second one on, which is said once."""
    looks = [SIX, SIX]
    monkeypatch.setattr(waves_module, "cluster_nodes", lambda: looks.pop(0))
    sizes = sizes_of(tmp_path, stages=AUTO, run={"layout": "fused", "shards_per_wave": 1})
    run = Waves(sizes, unknown())
    found = []
    while wave := run.next():
        found.append((run.sizes, wave))
    assert [item for _, shards in found for item in shards] == sizes.plan.work
    actors = [of_wave.plan.config.stages.decode.actors for of_wave, _ in found]
    assert actors[0] == sizes.expected.sizes["fused"]
    assert actors[1] == actors[2] == resized(sizes, SIX, None).expected.sizes["fused"]
    assert len(set(actors)) == 2
    assert looks == []
    line = f"2 nodes now, 6 CPUs, 0 GPUs; actors from here on: fused {actors[1]}"
    assert capsys.readouterr().err.count(line) == 1


def test_what_a_wave_left_undone_comes_first_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a wave of two shards that was ended early, the published one is not repeated."""
    monkeypatch.setattr(waves_module, "cluster_nodes", lambda: TWO)
    sizes = sizes_of(tmp_path, run={"layout": "fused", "shards_per_wave": 2})
    first, second, third = sizes.plan.work
    run = Waves(sizes, unknown())
    assert run.next() == [first, second]
    run_fake(replace(sizes.plan, work=[first]))
    run.repeat([first, second])
    assert run.next() == [second, third]
    assert run.next() == []


def unknown() -> mock.Mock:
    """Progress of a run before its first part."""
    progress = mock.Mock(images_per_s_after_start=None)
    progress.left.edits_per_byte, progress.left.estimate.return_value = 0.0, None
    return progress
