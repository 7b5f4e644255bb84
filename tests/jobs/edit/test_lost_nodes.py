"""Ray 2.60 when a node drains or memory runs out; each test has its own Ray."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow
ROOT = Path(__file__).resolve().parents[3]

MEMORY = """
import time
from jobs.ray_environment import set_ray_environment
from pipeline.config.load import parse_config

tree = {"input": {"shards": "a"}, "output": {"path": "b"}, "run": {"max_memory_retries": 1}}
set_ray_environment(parse_config(tree))
import ray
from jobs.edit.graph import configure_context

# Any task exceeds the limit, which is a hundredth of the memory.
ray.init(address="local", num_cpus=2, include_dashboard=False, log_to_driver=False,
    _system_config={"memory_usage_threshold": 0.01, "memory_monitor_refresh_ms": 100,
                    "task_oom_retry_delay_base_ms": 100})
configure_context()

def never_ends(batch):
    time.sleep(600)

dataset = ray.data.from_items([1], override_num_blocks=1)
rows = dataset.map_batches(never_ends, batch_size=1, num_cpus=0.25, max_retries=1).take_all()
print("rows", len(rows))
"""


def run(code: str) -> str:
    """Everything that a program prints; its exit code is ignored. Ray listens on 127.0.0.1."""
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT,
        env=os.environ | {"RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=240,
    )
    return done.stdout


def test_a_task_killed_by_the_memory_monitor_is_retried_only_once() -> None:
    """Without the limit Ray would retry it forever; the stream continues without its row."""
    said = run(MEMORY)
    assert "There are 1 oom retries remaining" in said
    assert "rows 0" in said.splitlines(), said


DRAIN = """
import subprocess, sys, time
import ray
from ray.cluster_utils import Cluster
from jobs.edit.graph import configure_context
from ray.data import ActorPoolStrategy

cluster = Cluster(initialize_head=True,
    head_node_args={"num_cpus": 0, "node_ip_address": "127.0.0.1"})
for _ in range(2):
    cluster.add_node(num_cpus=1, node_ip_address="127.0.0.1")
ray.init(address=cluster.address, log_to_driver=False)
configure_context()

class Where:
    def __call__(self, batch):
        start = time.time()
        time.sleep(0.2)
        return {"node": [ray.get_runtime_context().get_node_id()], "start": [start]}

items = ray.data.from_items(list(range(150)), override_num_blocks=150)  # read by no task
dataset = items.map_batches(Where, batch_size=1,
    num_cpus=0.75, compute=ActorPoolStrategy(size=2))
rows, drained = [], None
for batch in dataset.iter_batches(batch_size=1, prefetch_batches=0):
    rows.append((batch["node"][0], float(batch["start"][0])))
    if drained is None and len({node for node, _ in rows}) == 2:
        drained = rows[0][0]
        subprocess.run([sys.executable, "-m", "ray.scripts.scripts", "drain-node",
            "--address", cluster.address, "--node-id", drained,
            "--reason", "DRAIN_NODE_REASON_PREEMPTION", "--reason-message", "spot",
            "--deadline-remaining-seconds", "600"], check=True)
        heard = time.time()
late = [node for node, start in rows if start > heard + 5]
print("rows", len(rows), "late", len(late), "there", late.count(drained), flush=True)
"""


def test_a_draining_node_gets_no_further_part() -> None:
    """Of two nodes, one gets a preemption notice; later parts start on the other one."""
    said = run(DRAIN)
    lines = [line.split() for line in said.splitlines() if line.startswith("rows ")]
    assert len(lines) == 1, said
    words = lines[0]
    assert words[1] == "150", said
    assert int(words[3]) > 10, "the stream ended before the notice took effect"
    assert int(words[5]) == 0
