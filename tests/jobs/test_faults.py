"""What goes wrong in an actor costs its own part and nothing else."""

from __future__ import annotations

from pathlib import Path

import pyarrow.parquet as pq
import pytest

from pipeline.steps.verify import verify
from pipeline.storage.store import Store
from tests.jobs.conftest import Job
from tests.jobs.faulty import install
from tests.samples import sample, write_shard

pytestmark = pytest.mark.slow

# One part each: fault and stage, and the kind of error that its row must name.
EXPECTED = {
    "raise-mask": "RuntimeError",
    "raise-decode": "RuntimeError",
    "exit-encode": "SystemExit",
    "kill-mask": "PartLost",
    "segv-decode": "PartLost",
    "nan-encode": "NonFinite",
    "nan-decode": "NonFinite",
}


def test_faults_fail_their_own_part_alone(job: Job, tmp_path: Path) -> None:
    """Exceptions, sys.exit, SIGKILL, SIGSEGV and NaN: the run ends well, and the rest is right."""
    healthy = [f"healthy{number}" for number in range(4)]
    keys = [*EXPECTED, *healthy]
    keys.sort(key=lambda key: key[::-1])  # healthy ones between the others
    write_shard(tmp_path / "in/0.tar", [sample(key, ["a cat"], seed=1) for key in keys])
    output = tmp_path / "out"
    done = job.run(
        output,
        f"input.shards={tmp_path}/in/*.tar",
        "run.part_size=1",
        **install(tmp_path / "site"),
    )
    assert done.returncode == 0, done.stderr + done.stdout
    rows = {row["key"]: row for row in pq.read_table(output / "0.parquet").to_pylist()}
    assert {key: rows[key]["error"] for key in EXPECTED} == EXPECTED
    assert {rows[key]["status"] for key in EXPECTED} == {"failed"}
    assert {rows[key]["status"] for key in healthy} == {"edited"}
    assert not verify(Store(str(output))).problems
