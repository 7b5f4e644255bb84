"""Kills a process at every storage call of a mix, resumes the mix, and prints the differences.

python -m tests.mix.crash_runner FOLDER
"""

from __future__ import annotations

import importlib
import json
import os
import shutil
import signal
import sys
from contextlib import suppress
from pathlib import Path

from pipeline.mix.mix import run_mix
from pipeline.mix.plan import make_mix_plan
from tests.committing import contents
from tests.mix.test_mix import make_outputs, settings
from tests.stores.crash_runner import in_child, kill_at, must, record


def mix(folder: Path, output: str) -> None:
    run_mix(make_mix_plan(settings(folder, output, workers=1)))


def sweep(folder: Path) -> dict[str, list[str]]:
    """Tests a mix of two shards; returns all points of a kill, and a line for each failure."""
    os.fsync = lambda fd: None  # not needed: a killed process loses nothing that it has written
    must(lambda: make_outputs(folder, shards=2, images=3))
    modules, calls = folder / "modules", folder / "calls"

    def undisturbed() -> None:
        mix(folder, "clean")
        modules.write_text("\n".join(sys.modules))

    def counted() -> None:
        record(calls)
        mix(folder, "counted")

    must(undisturbed)
    for name in modules.read_text().splitlines():
        with suppress(ImportError):  # imports before the forks save 2 s in each
            importlib.import_module(name)
    must(counted)
    points, bad = calls.read_text().splitlines(), []
    for number, point in enumerate(points):
        shutil.rmtree(folder / "mixed", ignore_errors=True)

        def killed(number: int = number) -> None:
            kill_at(number)
            mix(folder, "mixed")

        code, printed = in_child(killed)
        if code != -signal.SIGKILL:
            bad.append(f"{point}: was not killed: {printed}")
        code, printed = in_child(lambda: mix(folder, "mixed"))
        found = {
            name: data for name, data in contents(folder / "mixed").items() if ".tmp" not in name
        }
        if code or printed or found != contents(folder / "clean"):
            bad.append(f"{point}: {code}: {printed}: {sorted(found)}")
    return {"points": points, "bad": bad}


if __name__ == "__main__":
    print(json.dumps(sweep(Path(sys.argv[1]))))
