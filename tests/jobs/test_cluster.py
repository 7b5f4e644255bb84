"""Whether the pools fit the cluster, asked before anything starts. No Ray is started here."""

from __future__ import annotations

import pytest
import ray

from jobs import cluster
from jobs.cluster import check_pools
from pipeline.words.config import Config
from pipeline.words.config_file import ConfigError, parse_config


def config(**run: object) -> Config:
    return parse_config({"input": {"shards": "in/*.tar"}, "output": {"path": "out"}, "run": run})


@pytest.fixture
def growing(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, float]]:
    """What the cluster has at each look; the last entry stays."""
    looks: list[dict[str, float]] = []
    monkeypatch.setattr(
        ray, "cluster_resources", lambda: looks.pop(0) if len(looks) > 1 else looks[0]
    )
    monkeypatch.setattr(cluster, "_LOOK_EVERY_S", 0.001)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    return looks


def test_nodes_that_join_late_are_waited_for(
    growing: list[dict[str, float]], capsys: pytest.CaptureFixture[str]
) -> None:
    """A head without GPUs at first, workers later: the run starts, and said what it waited for."""
    growing += [{"CPU": 8.0}] * 3 + [{"CPU": 8.0, "GPU": 2.0}] * 2 + [{"CPU": 8.0, "GPU": 3.0}]
    check_pools(config(address="head:6379", cluster_wait_s=60), "cuda")
    said = capsys.readouterr().err
    assert said.count("waiting for nodes") == 1
    assert "need 3 GPUs, where the cluster has 0" in said
    assert len(growing) == 1


def test_pools_that_never_fit_are_an_error(growing: list[dict[str, float]]) -> None:
    """After the wait the error names what is needed, what there is, and what to set."""
    growing.append({"CPU": 8.0, "GPU": 2.0})
    wanted = r"need 3 GPUs, where the cluster has 2 .*cluster_wait_s=0.01.*stages\.\*\.gpus"
    with pytest.raises(ConfigError, match=wanted):
        check_pools(config(address="head:6379", cluster_wait_s=0.01), "cuda")


def test_local_ray_is_not_waited_for(growing: list[dict[str, float]]) -> None:
    """A Ray that this command started has what it will ever have: the error comes at once."""
    growing.append({"CPU": 0.5})
    with pytest.raises(ConfigError, match=r"need 1\.25 CPUs, where the cluster has 0\.5; lower"):
        check_pools(config(), "cpu")
