"""A Ray cluster of real nodes: one is killed during a run, ten times; one joins during a run.

The three stages are arithmetic that needs no torch (``faulty.py``) and takes a given time.
"""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest
from ray._private.node import Node
from ray._private.ray_constants import PROCESS_TYPE_RAYLET
from ray.cluster_utils import Cluster

from pipeline.sizing.costs import COSTS_FILE, Costs
from pipeline.steps.verify import verify
from pipeline.storage.store import Store
from tests.jobs.conftest import ROOT, Job
from tests.jobs.edit.test_layouts import staged
from tests.jobs.faulty import PACE, install
from tests.samples import raw_sample, write_shard

pytestmark = pytest.mark.slow
Digests = Callable[[Path], dict[str, str]]
NUM_SHARDS, NUM_SAMPLES = 3, 10
NODE_CPUS = 2
# An actor, a reader and a writer fill a node, so a second actor needs a second node.
OVERRIDES = (
    *("run.layout=fused", "stages.decode.cpus=1.5", "run.part_size=1"),
    *("model.device=cpu", "report.enabled=false"),
)
# By default Ray takes 15 s to declare a node dead. A check of a dead raylet fails at once, so four
# failed checks in a row are enough; a slow raylet has 5 s to answer.
HEALTH_CHECKS = {
    "health_check_period_ms": 500,
    "health_check_timeout_ms": 5000,
    "health_check_failure_threshold": 4,
}


class Nodes:
    """A head without work, as in production, and worker nodes that are added and removed."""

    def __init__(self, job: Job, folder: Path) -> None:
        self.job, self.folder = job, folder
        head = {"num_cpus": 0, "node_ip_address": "127.0.0.1", "include_dashboard": False}
        self.cluster = Cluster(
            initialize_head=True, head_node_args={**head, "_system_config": HEALTH_CHECKS}
        )

    def resize(self, count: int, cpus: int = NODE_CPUS) -> list[int]:
        """Removes killed worker nodes, then adds or removes nodes.

        Args:
            count: number of worker nodes afterwards.
            cpus: of added nodes.

        Returns:
            The process ids of the nodes' raylets.
        """
        dead = [node for node in self.cluster.worker_nodes if raylet_of(node).poll() is not None]
        alive = [node for node in self.cluster.worker_nodes if node not in dead]
        for node in (*dead, *alive[count:]):
            self.cluster.remove_node(node, allow_graceful=False)
        while len(self.cluster.worker_nodes) < count:
            self.cluster.add_node(num_cpus=cpus, node_ip_address="127.0.0.1")
        return sorted(raylet_of(node).pid for node in self.cluster.worker_nodes)

    def anew(self, count: int, cpus: int = NODE_CPUS) -> list[int]:
        """As ``resize``, of new nodes alone."""
        self.resize(0)
        return self.resize(count, cpus)

    def set_pace(self, seconds: float, stage: str = "decode") -> None:
        """Sets the seconds that each further part takes in a stage."""
        (self.folder / f"pace/seconds-{stage}").write_text(str(seconds))

    def at_work(self, raylet: int, stage: str = "decode") -> bool:
        """Whether the stage has computed a part on the node of this raylet."""
        return (self.folder / f"pace/{stage}-{raylet}").exists()

    def start(self, output: Path, *more: str) -> subprocess.Popen[str]:
        shards = f"input.shards={self.folder}/in/*.tar"
        address = f"run.address={self.cluster.address}"
        return self.job.start(output, shards, address, *OVERRIDES, *more)

    def plain(self) -> Path:
        """The output of the local loop with the same stages."""
        output = self.folder / "plain"
        if not output.exists():
            shards = f"input.shards={self.folder}/in/*.tar"
            arguments = self.job.arguments(output, shards, *OVERRIDES)[1:]
            subprocess.run(
                [sys.executable, "-m", "tests.jobs.plain", *arguments], cwd=ROOT, check=True
            )
        return output


def raylet_of(node: Node) -> subprocess.Popen[bytes]:
    (raylet,) = node.all_processes[PROCESS_TYPE_RAYLET]
    process: subprocess.Popen[bytes] = raylet.process
    return process


@pytest.fixture(scope="module")
def nodes(job: Job, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Nodes]:
    folder = tmp_path_factory.mktemp("nodes")
    (folder / "pace").mkdir()
    for number in range(NUM_SHARDS):
        samples = [raw_sample(f"{number}{n}", ["a cat"], seed=n) for n in range(NUM_SAMPLES)]
        write_shard(folder / f"in/{number}.tar", samples)
    with pytest.MonkeyPatch.context() as patch:
        # Makes the drivers keep 127.0.0.1 instead of this host's address.
        patch.setenv("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "0")
        for name, value in install(folder / "site", faults=False).items():
            patch.setenv(name, value)
        patch.setenv(PACE, str(folder / "pace"))
        found = Nodes(job, folder)
        found.set_pace(0.0)
        try:
            yield found
        finally:
            found.cluster.shutdown()


def wait_until(condition: Callable[[], bool], run: subprocess.Popen[str], what: str) -> bool:
    """Waits for a condition during a run; returns False if the run ends before."""
    deadline = time.monotonic() + 180
    while not condition():
        if run.poll() is not None:
            return False
        assert time.monotonic() < deadline, f"{what}: not within three minutes"
        time.sleep(0.05)
    return True


def has_staged(output: Path, parts: int) -> bool:
    return len(staged(output)) >= parts


def finished(run: subprocess.Popen[str]) -> str:
    text, _ = run.communicate(timeout=300)
    assert run.returncode == 0, text
    return text


@pytest.mark.timeout(1200)
@pytest.mark.parametrize(
    "seeds",
    [
        pytest.param(range(1), id="one kill"),
        pytest.param(range(1, 10), id="nine more", marks=pytest.mark.sweep),
    ],
)
def test_a_run_survives_a_killed_node(
    seeds: range, nodes: Nodes, digests: Digests, tmp_path: Path
) -> None:
    """One of two raylets is killed after a seeded number of parts; the bytes stay the same."""
    expected = digests(nodes.plain())
    assert len(expected) == 2 * NUM_SHARDS
    killed = 0
    nodes.anew(2)
    for number in seeds:
        raylets = nodes.resize(2)
        nodes.set_pace(0.3)
        rng, output = random.Random(number), tmp_path / f"out{number}"
        run = nodes.start(output, "stages.decode.actors=2")
        # Not before the first part: a driver that finds one node left waits for the other.
        parts, wait_s = 1 + rng.randrange(NUM_SAMPLES), rng.uniform(0, 0.5)
        if wait_until(partial(has_staged, output, parts), run, f"part {parts}"):
            time.sleep(wait_s)
            os.kill(rng.choice(raylets), signal.SIGKILL)
            killed += run.poll() is None
            nodes.set_pace(0.0)
        text = finished(run)
        assert digests(output) == expected, f"run {number}: {text}"
        assert not verify(Store(str(output))).problems
    assert killed >= 0.8 * len(seeds), "in too few runs the node was killed before the end"


def test_a_wave_that_has_lost_a_pool_for_good_begins_anew(
    nodes: Nodes, digests: Digests, tmp_path: Path
) -> None:
    """Two decode actors are left, and no room for encode: without smaller pools nothing moves."""
    expected, output = digests(nodes.plain()), tmp_path / "out"
    raylets = nodes.anew(2, cpus=4)
    nodes.set_pace(0.0)
    nodes.set_pace(1.0, "encode")
    # Decoding takes three times as long, so there are one encode actor and three decode actors, of
    # which one at most has room beside the encode actor.
    costs = Costs("calibration", {"mask": 0.1, "encode": 0.2, "decode": 0.6}, 8)
    Store(str(output)).put(COSTS_FILE, costs.to_json())
    cpus = {"mask": 0.25, "encode": 2, "decode": 1.2}
    pools = [
        f"stages.{name}.{key}" for name in cpus for key in ("actors=auto", f"cpus={cpus[name]}")
    ]
    waits = ("run.cluster_wait_s=6", "run.part_timeout_s=6")
    run = nodes.start(output, "run.layout=pools", *pools, *waits)
    assert wait_until(partial(has_staged, output, 1), run, "the first part")
    (encodes,) = (raylet for raylet in raylets if nodes.at_work(raylet, "encode"))
    os.kill(encodes, signal.SIGKILL)
    nodes.set_pace(0.0, "encode")
    text = finished(run)
    assert "beginning anew with what is there" in text
    assert "actors from here on: mask 1, encode 1, decode 1" in text
    assert digests(output) == expected


def test_the_next_wave_has_pools_for_a_node_that_joined(
    nodes: Nodes, digests: Digests, tmp_path: Path
) -> None:
    """A pool of size auto has one actor while one node is there, and two in the wave after."""
    expected = digests(nodes.plain())
    nodes.set_pace(1.0)
    (first,), output = nodes.anew(1), tmp_path / "out"
    waves = ("run.shards_per_wave=1", "plan.calibrate=never", "stages.decode.actors=auto")
    run = nodes.start(output, *waves)
    assert wait_until(partial(has_staged, output, 1), run, "the first part")
    (second,) = {*nodes.resize(2)} - {first}
    nodes.set_pace(0.3)
    joined = wait_until(partial(nodes.at_work, second), run, "work for the node that joined")
    nodes.set_pace(0.0)
    text = finished(run)
    assert joined, f"the run ended before the second node had work: {text}"
    assert "the cluster has 3 nodes now, 4 CPUs, 0 GPUs; actors from here on: fused 2" in text
    assert digests(output) == expected


@pytest.mark.sweep  # of nodes that join, the test above has the way of pools without max_actors
def test_a_node_that_joins_during_a_run_gets_work(
    nodes: Nodes, digests: Digests, tmp_path: Path
) -> None:
    """A pool that may grow starts its second actor on the node that joins after the first part."""
    expected = digests(nodes.plain())
    nodes.set_pace(2.0)  # Ray Data notices a new node within 20 s; the run must last longer
    (first,), output = nodes.anew(1), tmp_path / "out"
    run = nodes.start(output, "stages.decode.actors=1", "stages.decode.max_actors=2")
    assert wait_until(partial(has_staged, output, 1), run, "the first part")
    # An operator may use a share of the cluster's CPUs; of ten CPUs it can use a second actor's.
    (second,) = {*nodes.resize(2, cpus=4 * NODE_CPUS)} - {first}
    joined = wait_until(partial(nodes.at_work, second), run, "work for the node that joined")
    nodes.set_pace(0.0)
    text = finished(run)
    assert joined, f"the run ended before the second node had work: {text}"
    assert digests(output) == expected
