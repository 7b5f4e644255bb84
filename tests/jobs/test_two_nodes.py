"""A Ray cluster of real nodes, of which one is killed in mid-run, ten times."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest
from ray._private.ray_constants import PROCESS_TYPE_RAYLET
from ray.cluster_utils import Cluster

from pipeline.steps.verify import verify
from pipeline.storage.store import Store
from tests.jobs.conftest import Job
from tests.jobs.test_edit import staged

pytestmark = pytest.mark.slow
Digests = Callable[[Path], dict[str, str]]
POOLS = ("run.layout=fused", "stages.decode.cpus=0.75")
NUM_RUNS = 10


class Nodes:
    """A head without work, as in production, and worker nodes that come and go."""

    def __init__(self) -> None:
        self.cluster = Cluster(
            initialize_head=True, head_node_args={"num_cpus": 0, "node_ip_address": "127.0.0.1"}
        )

    def add(self) -> int:
        """Starts a worker node; returns its raylet's process id."""
        node = self.cluster.add_node(num_cpus=1, node_ip_address="127.0.0.1")
        (raylet,) = node.all_processes[PROCESS_TYPE_RAYLET]
        return int(raylet.process.pid)

    def remove_all(self) -> None:
        for node in list(self.cluster.worker_nodes):
            self.cluster.remove_node(node, allow_graceful=False)

    def start(self, job: Job, output: Path, *more: str) -> subprocess.Popen[str]:
        return job.start(output, f"run.address={self.cluster.address}", *POOLS, *more)


@pytest.fixture(scope="module")
def nodes() -> Iterator[Nodes]:
    with pytest.MonkeyPatch.context() as patch:
        # For the drivers: 127.0.0.1 stays what it is, and is not made the address of this host.
        patch.setenv("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "0")
        found = Nodes()
        try:
            yield found
        finally:
            found.cluster.shutdown()


def wait_until(condition: Callable[[], bool], run: subprocess.Popen[str], what: str) -> bool:
    """Waits for something to happen in a run; false if the run ended before."""
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
def test_run_survives_a_killed_node(
    nodes: Nodes, job: Job, plain: Path, digests: Digests, tmp_path: Path
) -> None:
    """SIGKILL to one of two raylets after a seeded number of parts: the bytes of a calm run."""
    killed = 0
    for number in range(NUM_RUNS):
        nodes.remove_all()
        raylets = [nodes.add(), nodes.add()]
        rng, output = random.Random(number), tmp_path / f"out{number}"
        run = nodes.start(job, output, "stages.decode.actors=2")
        parts, wait_s = rng.randrange(4), rng.uniform(0, 0.5)
        if wait_until(partial(has_staged, output, parts), run, f"part {parts}"):
            time.sleep(wait_s)
            os.kill(rng.choice(raylets), signal.SIGKILL)
            killed += run.poll() is None
        text = finished(run)
        assert digests(output) == digests(plain), f"run {number}: {text}"
        assert not verify(Store(str(output))).problems
    assert killed >= NUM_RUNS - 2, "too few runs were still going on when their node was killed"
