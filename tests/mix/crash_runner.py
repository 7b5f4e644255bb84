"""Kills a real process at every storage call of a mix and mixes again; prints what it found.

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
    """All points of a mix of two shards, and a line for each after which it did not go on."""
    os.fsync = lambda descriptor: None  # a killed process loses nothing that it has written
    must(lambda: make_outputs(folder, shards=2, images=3))
    modules = folder / "modules"
    must(lambda: (mix(folder, "clean"), modules.write_text("\n".join(sys.modules))))  # type: ignore[func-returns-value]
    for name in modules.read_text().splitlines():
        with suppress(ImportError):  # what a mix imports at its first use: 2 s less for each fork
            importlib.import_module(name)
    calls = folder / "calls"
    must(lambda: (record(calls), mix(folder, "counted")))  # type: ignore[func-returns-value]
    points, bad = calls.read_text().splitlines(), []
    for number, point in enumerate(points):
        shutil.rmtree(folder / "mixed", ignore_errors=True)
        code, said = in_child(lambda n=number: (kill_at(n), mix(folder, "mixed")))  # type: ignore[misc]
        if code != -signal.SIGKILL:
            bad.append(f"{point}: was not killed: {said}")
        code, said = in_child(lambda: mix(folder, "mixed"))
        found = {
            name: data for name, data in contents(folder / "mixed").items() if ".tmp" not in name
        }
        if code or said or found != contents(folder / "clean"):
            bad.append(f"{point}: {code}: {said}: {sorted(found)}")
    return {"points": points, "bad": bad}


if __name__ == "__main__":
    print(json.dumps(sweep(Path(sys.argv[1]))))
