"""Hostile shards beside innocent ones: these are published, everything is said, memory is bounded.

A limit of the address space (RLIMIT_AS) would count what Ray's processes map and never touch, so
memory is measured: the driver's resident set, and the shares of all processes of the run (PSS). The
object store has a fixed size.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil
import pyarrow.parquet as pq
import pytest

from pipeline.config.load import load_config
from pipeline.execution.local_loop import run_loop
from pipeline.execution.operators import compute_part, flow_of, read
from pipeline.plan.plan import make_plan
from pipeline.steps.verify import verify
from pipeline.storage.store import Store
from tests.jobs.conftest import LOOPBACK, ROOT, Job
from tests.jobs.edit.hostile_shards import (
    DAMAGED,
    FAILED,
    INNOCENT,
    UNPUBLISHED,
    put_beside,
    write_hostile,
    write_innocent,
)

pytestmark = [pytest.mark.slow, pytest.mark.sweep, pytest.mark.timeout(1200)]
OVERRIDES = ("run.part_size=2", "run.layout=fused", "run.num_cpus=2", "run.part_timeout_s=120")
DRIVER_BYTES = 10**9
ALL_BYTES = 4 << 30
STORE_BYTES = 256 << 20


@pytest.fixture
def address() -> Iterator[str]:
    """A Ray with a small object store."""
    from ray.cluster_utils import Cluster

    node = {"num_cpus": 2, "node_ip_address": "127.0.0.1", "include_dashboard": False}
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(*LOOPBACK)
        cluster = Cluster(
            initialize_head=True, head_node_args=node | {"object_store_memory": STORE_BYTES}
        )
    yield cluster.address
    cluster.shutdown()


@dataclass
class Memory:
    """The largest memory of a driver, and of the processes below this one, in bytes."""

    driver: int = 0
    all: int = 0


def followed(process: subprocess.Popen[str]) -> tuple[str, Memory]:
    """The output of a driver, and its memory, until it ends."""
    memory, me = Memory(), psutil.Process()

    def measure() -> None:
        while process.poll() is None:
            total = 0
            for child in me.children(recursive=True):
                try:
                    total += child.memory_full_info().pss
                    if child.pid == process.pid:
                        memory.driver = max(memory.driver, child.memory_info().rss)
                except psutil.Error:
                    continue  # it has ended
            memory.all = max(memory.all, total)
            time.sleep(0.2)

    watch = threading.Thread(target=measure)
    watch.start()
    said, _ = process.communicate(timeout=600)
    watch.join()
    return said, memory


def clean_run(job: Job, inputs: Path, output: Path) -> list[tuple[str, bytes, bytes]]:
    """The innocent shards by the local loop; name, tar and first staged part of each."""
    arguments = job.arguments(output, f"input.shards={inputs}/*.tar", *OVERRIDES)[1:]
    plan = make_plan(load_config(arguments[0], arguments[1:]), "cpu")
    flow = flow_of(plan)
    operators = [flow.prepare, *flow.load("fused"), *flow.last]
    parts = []
    for work in plan.work:
        compute_part(next(read(flow, work)), operators)
        (staged,) = (output / "_parts" / work.shard.name).glob("*.arrow")
        tar = (inputs / f"{work.shard.name}.tar").read_bytes()
        parts.append((work.shard.name, tar, staged.read_bytes()))
    assert not run_loop(plan.still_to_do()).work
    return parts


def test_innocent_shards_are_published_beside_hostile_ones(
    job: Job, tmp_path: Path, address: str
) -> None:
    """As the clean run writes them; each hostile sample and shard is named; memory is bounded."""
    inputs, output, clean = tmp_path / "in", tmp_path / "out", tmp_path / "clean"
    inputs.mkdir()
    write_innocent(inputs)
    put_beside(output, clean_run(job, inputs, clean))
    for name in ("run.json", "environment.json"):  # as a killed run leaves them
        (output / "_run").mkdir(exist_ok=True)
        shutil.copy(clean / "_run" / name, output / "_run")
    write_hostile(inputs)
    shards = f"input.shards={inputs}"
    process = subprocess.Popen(
        job.command(output, shards, *OVERRIDES, f"run.address={address}"),
        cwd=ROOT,
        env=os.environ | dict([LOOPBACK]),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    started = time.monotonic()
    said, memory = followed(process)
    print(said, f"{time.monotonic() - started:.0f} s", memory, file=sys.stderr)
    assert process.returncode == 1, said
    for name in INNOCENT:
        for end in (".tar", ".parquet"):
            assert (output / (name + end)).read_bytes() == (clean / (name + end)).read_bytes(), name
    for name, reason in UNPUBLISHED.items():
        assert not list(output.glob(f"{name}*"))
        assert any(name in line and reason in line for line in said.splitlines()), (name, said)
    published = {path.name.removesuffix(".parquet") for path in output.glob("*.parquet")}
    rows = [row for path in output.glob("*.parquet") for row in pq.read_table(path).to_pylist()]
    hostile = [row for row in rows if row["shard"] not in INNOCENT]
    found = {(row["shard"], row["key"]): row["error"] for row in hostile if row["error"]}
    assert FAILED.items() <= found.items()
    good = {row["shard"] for row in hostile if row["key"] == "good" and row["status"] == "edited"}
    assert good == published - {*INNOCENT, *DAMAGED}
    assert not any(character in said for character in "\x1b\x07")
    left = [f"{name}: an input of the run, but not published; run again" for name in UNPUBLISHED]
    assert sorted(verify(Store(str(output))).problems) == sorted(left)
    for number in (0, 1, 2, 5, 6, 7):
        assert f"_parts/m-innocent{number}/" in said, "a damaged part is said"
    assert f"report: {output}/_run/report.html" in said
    assert memory.driver < DRIVER_BYTES, memory
    assert memory.all < ALL_BYTES, memory
