"""Kills a process at every storage call of a job, runs the job again, and compares the bytes."""

from __future__ import annotations

import importlib
import os
import shutil
import signal
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from tests.committing import contents
from tests.stores.forks import in_child, kill_at, must, record


def sweep(folder: Path, job: Callable[[Path], None]) -> dict[str, list[str]]:
    """Kills a job at each of its storage calls and resumes it.

    Args:
        folder: for the outputs; the parent, which never runs the job itself, writes nothing else.
        job: writes to the folder that it is given.

    Returns:
        All points of a kill, and a line for each resumed job whose bytes are not those of one that
        was not disturbed.
    """
    os.fsync = lambda fd: None  # not needed: a killed process loses nothing that it has written
    modules, calls, output = folder / "modules", folder / "calls", folder / "killed"

    def undisturbed() -> None:
        job(folder / "clean")
        modules.write_text("\n".join(sys.modules))

    def counted() -> None:
        record(calls)
        job(folder / "counted")

    must(undisturbed)
    for name in modules.read_text().splitlines():
        with suppress(ImportError):  # imports before the forks save 2 s in each
            importlib.import_module(name)
    must(counted)
    points, bad = calls.read_text().splitlines(), []
    for number, point in enumerate(points):
        shutil.rmtree(output, ignore_errors=True)

        def killed(number: int = number) -> None:
            kill_at(number)
            job(output)

        code, printed = in_child(killed)
        if code != -signal.SIGKILL:
            bad.append(f"{point}: was not killed: {printed}")
        code, printed = in_child(lambda: job(output))
        found = {name: data for name, data in contents(output).items() if ".tmp" not in name}
        if code or printed or found != contents(folder / "clean"):
            bad.append(f"{point}: {code}: {printed}: {sorted(found)}")
    return {"points": points, "bad": bad}
