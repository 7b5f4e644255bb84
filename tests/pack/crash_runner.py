"""Kills a process at every storage call of a pack, resumes it, and prints the differences.

python -m tests.pack.crash_runner FOLDER
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

from tests.committing import contents
from tests.pack.packing import draw, pack
from tests.stores.crash_runner import in_child, kill_at, must, record

NAMES = ("cat/1.png", "cat/2.png", "dog/1.png", "dog/broken.png", "dog/3.png")


def sweep(folder: Path) -> dict[str, list[str]]:
    """Tests a pack of two shards; returns all points of a kill, and a line for each failure."""
    os.fsync = lambda fd: None  # not needed: a killed process loses nothing that it has written
    modules, calls, tree = folder / "modules", folder / "calls", folder / "tree"
    draw(tree, NAMES)
    (tree / "dog/broken.png").write_bytes(b"no image")

    def packed(output: str) -> None:
        pack(folder / output, tree, samples_per_shard=3)

    def undisturbed() -> None:
        packed("clean")
        modules.write_text("\n".join(sys.modules))

    def counted() -> None:
        record(calls)
        packed("counted")

    must(undisturbed)
    for name in modules.read_text().splitlines():
        with suppress(ImportError):  # imports before the forks save time in each
            importlib.import_module(name)
    must(counted)
    points, bad = calls.read_text().splitlines(), []
    for number, point in enumerate(points):
        shutil.rmtree(folder / "out", ignore_errors=True)

        def killed(number: int = number) -> None:
            kill_at(number)
            packed("out")

        code, printed = in_child(killed)
        if code != -signal.SIGKILL:
            bad.append(f"{point}: was not killed: {printed}")
        code, printed = in_child(lambda: packed("out"))
        found = {
            name: data for name, data in contents(folder / "out").items() if ".tmp" not in name
        }
        if code or printed or found != contents(folder / "clean"):
            bad.append(f"{point}: {code}: {printed}: {sorted(found)}")
    return {"points": points, "bad": bad}


if __name__ == "__main__":
    print(json.dumps(sweep(Path(sys.argv[1]))))
