"""Ray 2.60 where machines and memory are taken away; each test has a Ray of its own."""

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

# Whatever runs is too much: less than a hundredth of the memory may be in use.
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
    """All that a program says, whose Ray keeps to 127.0.0.1. How it exits is left to that Ray."""
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


def test_a_task_that_the_memory_monitor_ends_is_given_up() -> None:
    """Ray alone retries it without end, and this would never end; the stream goes on without it."""
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
    """Two nodes, one with a spot instance's notice: what starts later starts on the other one."""
    said = run(DRAIN)
    (words,) = [line.split() for line in said.splitlines() if line.startswith("rows ")] or [said]
    assert words[1] == "150", said
    assert int(words[3]) > 10, "the stream ended before the notice could be heard"
    assert int(words[5]) == 0
