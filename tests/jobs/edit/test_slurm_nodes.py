"""The Slurm script on a real Slurm of two nodes; skipped where Slurm is not installed.

The stages are arithmetic that needs no torch (``tests/jobs/faulty.py``) and takes a given time.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from pipeline.steps.verify import verify
from pipeline.storage.store import Store
from tests.jobs.conftest import ROOT, Job
from tests.jobs.faulty import PACE, install
from tests.jobs.slurm import Slurm, missing, running
from tests.samples import raw_sample, write_shard

pytestmark = [
    pytest.mark.sweep,
    pytest.mark.skipif(missing() is not None, reason=missing() or ""),
]
Digests = Callable[[Path], dict[str, str]]
NUM_SHARDS, NUM_SAMPLES = 2, 12
OVERRIDES = (
    *("run.layout=fused", "stages.decode.actors=2", "stages.decode.cpus=1.5", "run.part_size=1"),
    *("model.device=cpu", "report.enabled=false"),
)
ONE_ACTOR = "stages.decode.actors=1"
# The ray of a node: the second one is late, or does not start at all.
RAY = """\
#!/usr/bin/env bash
if [[ $1 == start && $SLURMD_NODENAME == n2 ]]; then
  [[ $LATE != never ]] || exit 1
  sleep "$LATE"
fi
exec {ray} "$@"
"""


class Batch:
    """A job of the script, and what it has written."""

    def __init__(self, slurm: Slurm, job: Job, folder: Path, late: str, *more: str) -> None:
        self.slurm, self.folder, self.output = slurm, folder, folder / "out"
        commands = Path(sys.executable).parent
        environment = install(folder / "site", faults=False)
        environment |= {"LATE": late, "OVERPAINT_VENV": str(folder / "venv")}
        (folder / "pace").mkdir()
        self.set_pace(0.2)
        environment[PACE] = str(folder / "pace")
        (folder / "venv/bin").mkdir(parents=True)
        (folder / "venv/bin/activate").write_text(f'PATH="{folder}/venv/bin:{commands}:$PATH"\n')
        (folder / "venv/bin/ray").write_text(RAY.replace("{ray}", str(commands / "ray")))
        (folder / "venv/bin/ray").chmod(0o755)
        for number in range(NUM_SHARDS):
            samples = [raw_sample(f"{number}{n}", ["a cat"], seed=n) for n in range(NUM_SAMPLES)]
            write_shard(folder / f"in/{number}.tar", samples)
        shards = f"input.shards={folder}/in/*.tar"
        self.arguments = job.arguments(self.output, shards, *OVERRIDES)[1:]
        script = ROOT / "infra/slurm/overpaint.sbatch"
        options = ("--gpus-per-node=0", "--cpus-per-task=2", "--mem=3500", f"--chdir={ROOT}")
        asked = ("sbatch", "--parsable", *options, f"--output={folder}/log", str(script))
        self.number = slurm.ask(*asked, *self.arguments, *more, **environment).strip()
        assert self.number

    def set_pace(self, seconds: float) -> None:
        (self.folder / "pace/seconds-decode").write_text(str(seconds))

    def log(self) -> str:
        file = self.folder / "log"
        return file.read_text() if file.exists() else ""

    def raylets(self) -> int:
        """The number of nodes on which a part was computed."""
        return len(list((self.folder / "pace").glob("decode-*")))

    def says(self, *expected: str) -> bool:
        """Whether Slurm says all of this of the job."""
        said = self.slurm.ask("scontrol", "show", "job", self.number)
        return all(text in said.split() for text in expected)

    def wait_for(self, condition: Callable[[], bool], what: str) -> None:
        deadline = time.monotonic() + 150
        while not condition():
            assert time.monotonic() < deadline, f"{what}: {self.log()}"
            time.sleep(0.2)

    def plain(self) -> Path:
        """The output of the local loop with the same stages."""
        output = self.folder / "plain"
        arguments = [*self.arguments, f"output.path={output}"]
        command = [sys.executable, "-m", "tests.jobs.plain", *arguments]
        environment = os.environ | install(self.folder / "site", faults=False)
        subprocess.run(command, cwd=ROOT, env=environment, check=True)
        return output


@pytest.fixture(scope="module")
def slurm() -> Iterator[Slurm]:
    with running() as found:
        yield found


def test_a_stopped_job_on_two_nodes_is_requeued_and_resumes(
    slurm: Slurm, job: Job, digests: Digests, tmp_path: Path
) -> None:
    """The second node joins ten seconds late, and the plan is for both: parts run on each."""
    batch = Batch(slurm, job, tmp_path, "10")
    batch.wait_for(lambda: batch.raylets() == 2, "parts on both nodes")
    assert "waiting for nodes: 1 of 2 have joined" in batch.log()
    assert "cluster: 2 nodes, 4 CPUs" in batch.log()
    slurm.ask("scancel", "--signal=TERM", "--batch", batch.number)
    batch.wait_for(lambda: batch.says("JobState=PENDING", "Restarts=1"), "back in the queue")
    assert "SIGTERM: taking no further parts" in batch.log()
    assert "interrupted with" in batch.log()
    batch.set_pace(0.0)
    # Slurm holds a requeued job for two minutes.
    slurm.ask("scontrol", "update", f"JobId={batch.number}", "StartTime=now")
    batch.wait_for(lambda: batch.says("JobState=COMPLETED", "ExitCode=0:0"), "complete")
    assert not verify(Store(str(batch.output))).problems
    assert digests(batch.output) == digests(batch.plain())


def test_a_cancelled_job_ends_while_it_waits_for_a_node_that_never_joins(
    slurm: Slurm, job: Job, tmp_path: Path
) -> None:
    """It does not come back, though its driver ends with 75."""
    batch = Batch(slurm, job, tmp_path, "never", ONE_ACTOR)
    batch.wait_for(lambda: "waiting for nodes: 1 of 2" in batch.log(), "waits for the second node")
    slurm.ask("scancel", batch.number)
    batch.wait_for(lambda: batch.says("JobState=CANCELLED"), "cancelled")
    batch.wait_for(lambda: not slurm.ask("squeue", "--noheader"), "ended")
    assert batch.says("JobState=CANCELLED", "Restarts=0")
    assert "SIGTERM: stopped; run the same command to resume" in batch.log()


def test_a_node_that_never_joins_is_not_waited_for_without_end(
    slurm: Slurm, job: Job, tmp_path: Path
) -> None:
    """After ``run.cluster_wait_s`` the run goes on with one node, says so, and is complete."""
    batch = Batch(slurm, job, tmp_path, "never", ONE_ACTOR, "run.cluster_wait_s=4")
    batch.set_pace(0.0)
    batch.wait_for(lambda: batch.says("JobState=COMPLETED", "ExitCode=0:0"), "complete")
    assert "only 1 of run.num_nodes=2 nodes have joined after run.cluster_wait_s=4" in batch.log()
    assert "ray start on n2 ended with code 1 (try 2 of 3)" in batch.log()
    assert "cluster: 1 node, 2 CPUs" in batch.log()
    assert not verify(Store(str(batch.output))).problems
