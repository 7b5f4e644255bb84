"""Ray's object store runs full, and so does the disk to which it spills: the run says so once."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from ray.cluster_utils import Cluster
from ray.exceptions import NodeDiedError, OutOfDiskError, RayError

from jobs.edit.full_store import FULL, LOGGER, RAY_DATA, FullStore
from pipeline.steps.verify import verify
from pipeline.storage.store import Store
from tests.jobs.conftest import LOOPBACK, ROOT, Job
from tests.jobs.edit.test_full_disk import disk  # noqa: F401 - a fixture
from tests.jobs.faulty import install
from tests.samples import raw_sample, write_shard

MIB = 2**20


def lose(error: RayError) -> None:
    """What Ray Data logs of a part whose task raised this."""
    logging.getLogger(LOGGER).error("An exception was raised from a task", exc_info=error)


@pytest.mark.parametrize("shown", [False, True])
def test_a_full_object_store_is_told_once(
    shown: bool, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    """In several waves, with ``-v`` or without; Ray Data's own lines are as before."""
    caplog.set_level(logging.ERROR if shown else logging.CRITICAL, logger=RAY_DATA)
    parent = logging.getLogger(RAY_DATA)
    parent.addHandler(caplog.handler)
    store = FullStore()
    for _ in range(2):
        with store.watched():
            lose(OutOfDiskError("id", "address", "site"))
            lose(OutOfDiskError("id", "address", "site"))
    lose(OutOfDiskError("id", "address", "site"))
    parent.removeHandler(caplog.handler)
    assert " ".join(capsys.readouterr().err.split()).count(FULL) == 1
    assert bool(caplog.records) == shown


def test_another_loss_says_nothing_of_the_object_store(capsys: pytest.CaptureFixture[str]) -> None:
    """A lost node is told elsewhere."""
    with FullStore().watched():
        lose(NodeDiedError("gone"))
    assert "object store" not in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.sweep
def test_a_run_in_a_full_object_store_loses_nothing(
    job: Job,
    disk: Path,  # noqa: F811
    digests: Callable[[Path], dict[str, str]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Parts of 24 MB in a store of 80 MiB: exit code 0, the reason, and the bytes of the loop."""
    for number in range(3):
        samples = [
            raw_sample(f"{number}{place}", seed=10 * number + place, npy=os.urandom(3 * MIB))
            for place in range(16)
        ]
        write_shard(tmp_path / f"in/{number}.tar", samples)
    overrides = (
        *(f"input.shards={tmp_path}/in/*.tar", "run.part_size=8", "model.device=cpu"),
        *("run.layout=fused", "report.enabled=false"),
    )
    for name, value in {**install(tmp_path / "site", faults=False), **dict([LOOPBACK])}.items():
        monkeypatch.setenv(name, value)
    plain = job.arguments(tmp_path / "plain", *overrides)[1:]
    subprocess.run([sys.executable, "-m", "tests.jobs.plain", *plain], cwd=ROOT, check=True)
    node = {
        "num_cpus": 2,
        "node_ip_address": "127.0.0.1",
        "include_dashboard": False,
        "object_store_memory": 80 * MIB,
        "object_spilling_directory": str(disk),
    }
    cluster = Cluster(initialize_head=True, head_node_args=node)
    try:
        done = job.run(tmp_path / "out", *overrides, f"run.address={cluster.address}")
    finally:
        cluster.shutdown()
    assert done.returncode == 0, done.stderr
    assert done.stderr.count(FULL) == 1, done.stderr
    assert digests(tmp_path / "out") == digests(tmp_path / "plain")
    assert not verify(Store(str(tmp_path / "out"))).problems
