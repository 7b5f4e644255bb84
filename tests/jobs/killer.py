"""Kills a whole run (the driver with all of its Ray), or one worker, at a storage call.

``faulty.install`` installs it in every process. Environment variables name the calls that kill, as
``<when> <operation> <name>``, one per line.
"""

from __future__ import annotations

import os
import signal
from pathlib import Path

import psutil

RUN, WORKERS, LOG = "OVERPAINT_TEST_KILL_RUN", "OVERPAINT_TEST_KILL_WORKERS", "OVERPAINT_TEST_LOG"
ONCE = "OVERPAINT_TEST_KILL_ONCE"  # a folder that remembers which workers were killed


def on_storage_call(when: str, operation: str, name: str) -> None:
    """The hook of every store in every process of the run."""
    point = f"{when} {operation} {name}"
    if log := os.environ.get(LOG):
        with open(log, "a") as file:
            print(point, file=file)
    if point == os.environ.get(RUN):
        kill_run()
    if point in os.environ.get(WORKERS, "").split("\n"):
        done = Path(os.environ[ONCE], point.replace("/", "_"))
        if not done.exists():
            done.touch()
            os.kill(os.getpid(), signal.SIGKILL)


def kill_run() -> None:
    """Kills the driver above this process and everything below it, this process last."""
    me = psutil.Process()
    drivers = [process for process in [me, *me.parents()] if "jobs.cli" in process.cmdline()]
    tree = [drivers[-1], *drivers[-1].children(recursive=True)]
    for process in [*(one for one in tree if one != me), me]:
        try:
            process.kill()
        except psutil.NoSuchProcess:  # a child that has died with its parent
            continue
