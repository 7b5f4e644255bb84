"""The Slurm script, with stand-ins for the commands of Slurm and Ray: tokens and requeues."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from pathlib import Path

import pytest

SCRIPT = Path(__file__).resolve().parents[2] / "infra/slurm/overpaint.sbatch"
STAND_INS = {
    "scontrol": 'if [[ $1 == show ]]; then printf "node1\\nnode2\\n"; else note scontrol "$@"; fi',
    "squeue": 'echo "${STATE:-RUNNING None}"',
    "srun": (
        "while [[ $1 == --* ]]; do [[ $1 == --nodelist=* ]] && export NODE=${1#*=}; shift; done; "
        '"$@"'
    ),
    "hostname": "echo 10.0.0.1 10.1.0.1",
    "ray": (
        'note "$1 $RAY_AUTH_MODE $RAY_AUTH_TOKEN" "$@"; [[ $1 == start ]] || sleep "$SETUP"; '
        'if [[ $1 == start && $NODE == "${BROKEN:-}" ]]; then exit 3; fi'
    ),
    "overpaint": (
        '[[ -n ${EARLY:-} ]] || trap "kill %1; note ended; exit 75" TERM; '
        'note "edit $RAY_AUTH_MODE $RAY_AUTH_TOKEN" "$@"; '
        'sleep "$LASTS" & wait; exit 0'
    ),
}


class Job:
    """The script as Slurm runs it, and what its stand-ins have noted."""

    def __init__(self, folder: Path, lasts: float, setup: float = 0.0, **more: str) -> None:
        self.noted = folder / "noted"
        self.noted.touch()
        commands = folder / "venv/bin"
        commands.mkdir(parents=True)
        for name, body in STAND_INS.items():
            note = f'note() {{ echo "$*" >> {self.noted}; }}'
            (commands / name).write_text(f"#!/usr/bin/env bash\n{note}\n{body}\n")
            (commands / name).chmod(0o755)
        (commands / "activate").touch()
        environment = {
            "PATH": f"{commands}:{os.environ['PATH']}",
            "OVERPAINT_VENV": str(folder / "venv"),
            "SLURM_JOB_ID": "7",
            "SLURM_JOB_NODELIST": "node[1-2]",
            "SLURM_CPUS_PER_TASK": "8",
            "LASTS": str(lasts),
            "SETUP": str(setup),
            **more,
        }
        self.process = subprocess.Popen(
            ["bash", str(SCRIPT), "my.yaml", "run.seed=3"],
            env=environment,
            cwd=folder,
            stderr=(folder / "log").open("w"),
        )

    def lines(self, start: str) -> list[str]:
        return [line for line in self.noted.read_text().splitlines() if line.startswith(start)]

    def wait_for(self, start: str, number: int = 1) -> list[str]:
        """Waits for this many lines that begin with ``start``."""
        deadline = time.monotonic() + 30
        while len(lines := self.lines(start)) < number:
            assert time.monotonic() < deadline, self.noted.read_text()
            time.sleep(0.01)
        return lines

    def stop_once_noted(self, start: str) -> int:
        """Sends SIGTERM to the batch shell, as Slurm at the time limit; returns its exit code."""
        self.wait_for(start)
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(timeout=30)


def test_all_nodes_and_the_driver_share_a_new_token(tmp_path: Path) -> None:
    """A job that ends with 0 is not requeued."""
    job = Job(tmp_path, lasts=0.1)
    assert job.process.wait(timeout=30) == 0
    first, second = job.wait_for("start token ", 2)
    (driver,) = job.lines("edit token ")
    tokens = {line.split()[2] for line in (first, second, driver)}
    assert len(tokens) == 1
    assert len(tokens.pop()) == 64
    assert "--head" in first + second
    assert driver.endswith("edit my.yaml run.address=10.0.0.1:20007 run.num_nodes=2 run.seed=3")
    assert not job.lines("scontrol")


def test_a_token_in_the_environment_is_used(tmp_path: Path) -> None:
    """A user who knows the token can connect to the job's Ray."""
    job = Job(tmp_path, lasts=0.1, RAY_AUTH_TOKEN="given")
    assert job.process.wait(timeout=30) == 0
    job.wait_for("start token given", 2)
    assert len(job.lines("edit token given")) == 1


def test_a_node_that_does_not_start_is_named_and_tried_again(tmp_path: Path) -> None:
    """Three times; the driver runs meanwhile, with the other node."""
    job = Job(tmp_path, lasts=60, BROKEN="node2")
    job.wait_for("start", 1 + 3)
    assert len(job.lines("edit")) == 1
    said = [line for line in (tmp_path / "log").read_text().splitlines() if "node2" in line]
    begins = "overpaint.sbatch: ray start on node2 ended with code 3 (try "
    assert said[:2] == [f"{begins}1 of 3)", f"{begins}2 of 3)"]
    assert job.stop_once_noted("edit") == 75


def test_a_job_at_its_time_limit_is_requeued(tmp_path: Path) -> None:
    """The driver gets SIGTERM and exits with 75, and so does the job."""
    job = Job(tmp_path, lasts=60)
    assert job.stop_once_noted("edit") == 75
    job.wait_for("start", 2)
    assert job.lines("ended")
    assert job.lines("scontrol") == ["scontrol requeue 7"]


def test_a_job_without_a_driver_yet_is_requeued(tmp_path: Path) -> None:
    """SIGTERM arrives while Ray's nodes start; no driver is started."""
    job = Job(tmp_path, lasts=60, setup=1.0)
    assert job.stop_once_noted("health-check") == 75
    assert not job.lines("edit")
    assert job.lines("scontrol") == ["scontrol requeue 7"]


def test_a_job_whose_driver_has_no_handler_yet_is_requeued(tmp_path: Path) -> None:
    """SIGTERM ends a driver that has only just started, as it ends any process."""
    job = Job(tmp_path, lasts=60, EARLY="1")
    assert job.stop_once_noted("edit") == 75
    assert job.lines("scontrol") == ["scontrol requeue 7"]


@pytest.mark.parametrize("setup", [0.0, 1.0])
@pytest.mark.parametrize(
    ("state", "requeued"), [("COMPLETING None", False), ("COMPLETING TimeLimit", True)]
)
def test_a_cancelled_job_does_not_come_back(
    state: str, requeued: bool, setup: float, tmp_path: Path
) -> None:
    """As ``squeue`` says after ``scancel``, and at the end of the time limit, when it is too late
    for the notice before it."""
    job = Job(tmp_path, lasts=60, setup=setup, STATE=state)
    assert job.stop_once_noted("health-check" if setup else "edit") == 75
    assert job.lines("scontrol") == ["scontrol requeue 7"] * requeued
