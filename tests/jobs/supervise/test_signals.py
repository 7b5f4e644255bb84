"""A signal ends a run with exit code 75, whatever the run is doing."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from unittest import mock

import pytest

from jobs import exit_codes
from jobs.cli import main
from jobs.supervise.interrupts import Interrupted, interruptible
from pipeline.execution.local_loop import run_loop
from pipeline.records.part import Part
from pipeline.steps.marker import read_marker
from tests.fake_job import fake_plan, run_fake
from tests.samples import raw_sample, write_shard

ROOT = Path(__file__).resolve().parents[3]
NUMBERS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
RAY = """
import os, re, signal, sys
import psutil
from jobs.edit.cluster import connect, disconnect
from jobs.supervise.interrupts import Interrupted, interruptible
from jobs.supervise.journal import Journal
from jobs.supervise.shutdown import GracefulStop, StopFlag
from pipeline.config.load import parse_config

tree = {"input": {"shards": "a"}, "output": {"path": "b"}, "run": {"num_cpus": 1}}
with interruptible():
    connect(parse_config(tree), verbose=False)
    for child in psutil.Process().children(recursive=True):
        blocked = re.search(r"SigBlk:\\s*(\\w+)", open(f"/proc/{child.pid}/status").read())[1]
        if not int(blocked, 16) & 1 << signal.SIGHUP - 1:
            print("ended by SIGHUP:", child.name())
    try:
        os.kill(os.getpid(), signal.SIGTERM)
    except Interrupted:
        print("before the first part: interrupted")
    stop = GracefulStop(StopFlag(Journal()), grace_s=60)
    disconnect()
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        stop.requested = False
        os.kill(os.getpid(), number)
        print("after the last part:", stop.requested, sys.modules["ray"].is_initialized())
"""

START = """
import os, signal, sys, time
from jobs.cli import main

def stop(*arguments, **settings):
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(5)

class Importing:
    def find_spec(self, name, path=None, target=None):
        if name == moment:
            sys.meta_path.remove(self)
            stop()

moment = sys.argv[1]
if moment.startswith("ray."):  # the first thing that ray.init does at an address
    import ray
    ray._private.services.canonicalize_bootstrap_address = stop
else:
    sys.meta_path.insert(0, Importing())
sys.exit(main(sys.argv[2:]))
"""


@pytest.mark.parametrize("number", NUMBERS)
def test_a_signal_before_the_first_part_is_an_interruption(
    number: signal.Signals, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """While it waits for a cluster's nodes: one line, exit code 75, and handlers are restored."""
    before = [signal.getsignal(each) for each in NUMBERS]

    def wait(*arguments: object, **settings: object) -> None:
        os.kill(os.getpid(), number)
        time.sleep(5)

    command = ["edit", "demo", f"output.path={tmp_path}/out", f"input.shards={tmp_path}/*.tar"]
    with mock.patch("jobs.edit.driver.make_plan", side_effect=wait):
        assert main(command) == exit_codes.INTERRUPTED
    said = capsys.readouterr().err
    assert said == f"{number.name}: stopped; run the same command to resume\n"
    assert [signal.getsignal(each) for each in NUMBERS] == before


@pytest.mark.parametrize(
    ("command", "called"),
    [
        (["pack", "out", "photos"], "jobs.commands.pack.pack_sources"),
        (["mix", "out", "--edited", "o"], "jobs.commands.mix.mix_outputs"),
        (["pairs", "out", "--edited", "o"], "jobs.commands.mix.mix_outputs"),
        (["refilter", "o", "--clear"], "jobs.commands.refilter.refilter_output"),
        (["convert", "a", "b", "--base", "c"], "jobs.commands.convert.convert_checkpoint"),
    ],
)
def test_a_closed_terminal_interrupts_what_the_same_command_resumes(
    command: list[str], called: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """The shell and the kernel send a SIGHUP each: one line, exit code 75."""

    def work(*arguments: object, **settings: object) -> None:
        try:
            os.kill(os.getpid(), signal.SIGHUP)
            time.sleep(5)
        finally:
            os.kill(os.getpid(), signal.SIGHUP)

    with mock.patch(called, side_effect=work):
        assert main(command) == exit_codes.INTERRUPTED
    assert capsys.readouterr().err == "SIGHUP: stopped; run the same command to resume\n"
    assert signal.getsignal(signal.SIGHUP) == signal.SIG_DFL


def test_nohup_is_respected() -> None:
    """What ignores SIGHUP goes on ignoring it."""
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with interruptible():
            os.kill(os.getpid(), signal.SIGHUP)
        assert signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)


@pytest.mark.parametrize(
    "moment", ["jobs.supervise.starts", "jobs.edit.driver", "ray._private.services"]
)
def test_a_signal_while_the_driver_starts_is_an_interruption(moment: str, tmp_path: Path) -> None:
    """While it imports, and while it connects to a Ray cluster, which may take a minute."""
    write_shard(tmp_path / "in/0.tar", [raw_sample("a", ["a cat"])])
    command = ["edit", "demo", f"output.path={tmp_path}/out", f"input.shards={tmp_path}/in/*.tar"]
    done = subprocess.run(
        [sys.executable, "-c", START, moment, *command, "run.address=127.0.0.1:1"],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.stderr == "SIGTERM: stopped; run the same command to resume\n"
    assert done.returncode == exit_codes.INTERRUPTED


def test_a_signal_in_the_local_loop_fails_no_edit(tmp_path: Path) -> None:
    """The rows would say SystemExit, and stay: nothing was wrong with these edits."""
    write_shard(tmp_path / "in/0.tar", [raw_sample("a", ["a cat"]), raw_sample("b", seed=1)])
    plan = fake_plan(f"{tmp_path}/in/*.tar", f"{tmp_path}/out")

    def stopped(part: Part) -> Part:
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(5)
        return part

    with interruptible(), pytest.raises(Interrupted):
        run_loop(plan, stages={"decode": stopped})
    assert list(plan.output.list("_parts/")) == []
    assert run_fake(plan.still_to_do()).work == []
    marker = read_marker(plan.output, "0")
    assert marker is not None
    assert (marker.counts["edited"], marker.counts["failed"]) == (2, 0)


@pytest.mark.slow
def test_our_signal_handlers_survive_rays_start_and_shutdown() -> None:
    """Ray's start installs its own handler; its shutdown restores the system's, below Python."""
    done = subprocess.run(
        [sys.executable, "-c", RAY],
        cwd=ROOT,
        env=os.environ | {"RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0", "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.stdout.splitlines() == [
        "before the first part: interrupted",
        *["after the last part: True False"] * 3,
    ], done.stderr
    assert done.returncode == 0
