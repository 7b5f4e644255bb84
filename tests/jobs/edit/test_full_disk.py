"""A disk that runs full during a run: nothing false is published, and a rerun completes."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from pipeline.config.load import load_config
from pipeline.execution.local_loop import run_loop
from pipeline.plan.plan import make_plan
from tests.jobs.conftest import Job
from tests.jobs.faulty import install
from tests.samples import raw_sample, write_shard

SMALL, LARGE = "600k", "16m"
SHARDS, SAMPLES = 1, 12


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A small file system of its own, which can be enlarged."""
    folder = tmp_path / "disk"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", f"size={SMALL}", "tmpfs", str(folder)]
    if os.geteuid() != 0 or subprocess.run(command, capture_output=True).returncode != 0:
        pytest.skip("no file system can be mounted here")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


@pytest.mark.slow
def test_a_full_disk_leaves_no_failed_rows(job: Job, disk: Path, tmp_path: Path) -> None:
    """Exit code 1 and the reason; once the disk is larger, all edits are made and none failed.

    The first run is under Ray, where a lost part could become rows; what is left of it decides, so
    that the second needs no Ray.
    """
    for number in range(SHARDS):
        samples = [
            raw_sample(f"{number}{place}", seed=10 * number + place, npy=os.urandom(60_000))
            for place in range(SAMPLES)
        ]
        write_shard(tmp_path / f"in/{number}.tar", samples)
    overrides = (
        *(f"input.shards={tmp_path}/in/*.tar", "run.part_size=2", "model.device=cpu"),
        "run.num_cpus=2",
        "run.layout=fused",
        *("run.max_task_retries=0", "report.enabled=false"),
    )
    env = install(tmp_path / "site", faults=False)
    full = job.run(disk / "out", *overrides, **env)
    assert full.returncode == 1, full.stderr
    assert "No space left on device" in full.stderr
    assert "stays unpublished: storing part" in full.stderr
    subprocess.run(["mount", "-o", f"remount,size={LARGE}", str(disk)], check=True)
    config = load_config(job.folder / "job.yaml", [f"output.path={disk}/out", *overrides])
    assert not run_loop(make_plan(config, "cpu")).work
    files = sorted((disk / "out").glob("*.parquet"))
    rows = [row for file in files for row in pq.read_table(file).to_pylist()]
    assert [row["status"] for row in rows] == ["edited"] * (SHARDS * SAMPLES)
