"""Whether the pools fit the cluster is checked before the run starts. No Ray is started here."""

from __future__ import annotations

from typing import Any

import pytest

from jobs.edit import cluster
from jobs.edit.cluster import check_pools, wait_for_nodes
from jobs.edit.devices import has_bfloat16
from pipeline.config.config import Config
from pipeline.config.load import ConfigError, parse_config
from pipeline.sizing.pools import Node


def config(**run: object) -> Config:
    run = {"layout": "pools"} | run
    return parse_config({"input": {"shards": "in/*.tar"}, "output": {"path": "out"}, "run": run})


@pytest.fixture
def growing(monkeypatch: pytest.MonkeyPatch) -> list[list[Node]]:
    """The nodes of the cluster at each poll; the last entry stays."""
    looks: list[list[Node]] = []
    monkeypatch.setattr(
        cluster, "cluster_nodes", lambda: looks.pop(0) if len(looks) > 1 else looks[0]
    )
    monkeypatch.setattr(cluster, "_POLL_S", 0.001)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    return looks


def test_a_run_waits_for_nodes_that_join_late(
    growing: list[list[Node]], capsys: pytest.CaptureFixture[str]
) -> None:
    """At first there is only a head without GPUs; the log says what the run waits for."""
    growing += [[Node(8)]] * 3 + [[Node(8), Node(8, 2)]] * 2 + [[Node(8), Node(8, 2), Node(8, 1)]]
    check_pools(config(address="head:6379", cluster_wait_s=60), "cuda")
    said = capsys.readouterr().err
    assert said.count("waiting for nodes") == 1
    assert "need 3 GPUs, but the cluster has 0" in said
    assert len(growing) == 1


def test_a_run_is_planned_once_all_its_nodes_have_joined(
    growing: list[list[Node]], capsys: pytest.CaptureFixture[str]
) -> None:
    """Pools that fit the first node do not end the wait; it is told once."""
    growing += [[Node(8, 4)]] * 3 + [[Node(8, 4)] * 2]
    wait_for_nodes(config(address="head:6379", cluster_wait_s=60, num_nodes=2))
    assert capsys.readouterr().err.count("waiting for nodes: 1 of 2 have joined") == 1
    assert len(growing) == 1


def test_a_node_that_never_joins_is_told_and_not_waited_for(
    growing: list[list[Node]], capsys: pytest.CaptureFixture[str]
) -> None:
    """The run goes on with the others: a lost node must not stop it."""
    growing.append([Node(8, 4)])
    wait_for_nodes(config(address="head:6379", cluster_wait_s=0.01, num_nodes=2))
    assert "only 1 of run.num_nodes=2 nodes have joined after" in capsys.readouterr().err
    wait_for_nodes(config(address="head:6379"))
    assert not capsys.readouterr().err


def test_pools_that_never_fit_are_an_error(growing: list[list[Node]]) -> None:
    """After the wait the error names what is needed, what exists, and what to set."""
    growing.append([Node(8, 2)])
    wanted = r"need 3 GPUs, but the cluster has 2 .*cluster_wait_s=0.01.*stages\.\*\.gpus"
    with pytest.raises(ConfigError, match=wanted):
        check_pools(config(address="head:6379", cluster_wait_s=0.01), "cuda")


def test_a_run_on_a_local_ray_does_not_wait(growing: list[list[Node]]) -> None:
    """A local Ray gets no more resources, so the error comes at once."""
    growing.append([Node(0.5)])
    with pytest.raises(ConfigError, match=r"need 1\.25 CPUs, but the cluster has 0\.5; lower"):
        check_pools(config(), "cpu")


def test_fractions_of_gpus_must_fit_on_single_gpus(growing: list[list[Node]]) -> None:
    """Three actors with 2/3 of a GPU each do not fit on two GPUs, though the sum does."""
    growing.append([Node(8, 2)])
    stages = {name: {"gpus": 2 / 3} for name in ("mask", "encode", "decode")}
    tree = {"input": {"shards": "a"}, "output": {"path": "b"}, "stages": stages}
    tree |= {"run": {"layout": "pools"}}
    with pytest.raises(
        ConfigError, match="no single node has room for some actor: an actor's CPUs"
    ):
        check_pools(parse_config(tree), "cuda")


def test_a_pool_of_auto_size_needs_room_for_one_actor(growing: list[list[Node]]) -> None:
    """With layout auto as well, one fused actor is enough."""
    growing.append([Node(8, 1)])
    tree: dict[str, Any] = {"input": {"shards": "a"}, "output": {"path": "b"}}
    assert check_pools(parse_config(tree), "cuda") == [Node(8, 1)]
    with pytest.raises(ConfigError, match="need 3 GPUs"):
        check_pools(parse_config(tree | {"run": {"layout": "pools"}}), "cuda")


@pytest.mark.parametrize(
    ("kinds", "device", "expected"),
    [
        (["A100", "H100"], "cuda", True),
        (["A100", "T4"], "cuda", False),
        ([], "cuda", None),
        (["T4"], "cpu", None),
    ],
)
def test_the_clusters_gpus_say_whether_they_have_bfloat16(
    kinds: list[str], device: str, expected: bool | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One old GPU decides, since the output has one dtype. A node that has left does not count."""
    nodes = [
        {"Alive": kind != "V100", "Resources": {"GPU": 1.0, f"accelerator_type:{kind}": 1.0}}
        for kind in [*kinds, "V100"]
    ]
    monkeypatch.setattr("ray.is_initialized", lambda: True)
    monkeypatch.setattr("ray.nodes", lambda: nodes)
    assert has_bfloat16(config(address="head:6379"), device) is expected
    assert has_bfloat16(config(), device) is None
