"""Measures the memory of the commands that read published shards, with large shards.

    python -m infra.benchmarks.commands --other ../before --out infra/benchmarks/commands.json

Draws an output of one large shard (without a model), and runs each command over a copy of it in a
process of its own. Meanwhile it samples that process: what only it has resident. The memory of the
same process before the command begins, with everything imported, is subtracted.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from infra.benchmarks.readers import private_bytes
from infra.benchmarks.startup import ROOT, environment
from jobs.benchmark.machine import describe_machine
from tests.drawn_output import make_output

POLL_S = 0.02
SIDE = 128  # pixels of the images that are edited
MIXES = ("webdataset", "parquet", "imagefolder")
COMMANDS = ("verify", *(f"mix {form}" for form in MIXES), "pairs", "refilter", "reopen", "report")
# Run in a checkout: imports all, prints a line, waits for one, works, and prints the seconds.
WORK = """
import sys, time
from pathlib import Path
from pipeline.config.filters import filtering_of
from pipeline.config.mix import Mix
from pipeline.mix.mix import run_mix
from pipeline.mix.plan import make_mix_plan
from pipeline.report.page import write_report
from pipeline.republish.generation import read_generation, stage_part
from pipeline.republish.refilter import refilter
from pipeline.steps.verify import verify
from pipeline.storage.store import Store

command, _, form = sys.argv[1].partition(" ")
home = Path(sys.argv[2])
output = Store(str(home / "out"))

def mix(form):
    tree = {"input": {"shards": f"{home}/in/*.tar"}, "format": form,
            "edited": {"paths": [output.url]}, "output": {"path": f"{home}/mix"},
            "splits": {"train": 1.0}} | ({} if form == "pairs" else {"ratio": 10})
    run_mix(make_mix_plan(Mix.model_validate(tree)))

def reopen():
    generation = read_generation(output, "00000")
    stage_part(output, generation, 0, generation.rows[:1], with_totals=True)

work = {
    "verify": lambda: verify(output),
    "mix": lambda: mix(form),
    "pairs": lambda: mix("pairs"),
    "refilter": lambda: refilter(output, filtering_of(["mask_area <= 0.25"])),
    "reopen": reopen,
    "report": lambda: write_report(output),
}[command]
print("ready", flush=True)
input()
start = time.perf_counter()
work()
print(time.perf_counter() - start, flush=True)
"""


def main() -> None:
    """Draws the output, measures each command in each checkout, writes the JSON."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--edits", type=int, default=220, help="of the shard")
    parser.add_argument("--bytes", type=int, default=2_000_000, help="that pass through an edit")
    parser.add_argument("--other", type=Path, help="another checkout, measured as well")
    parser.add_argument("--commands", nargs="+", default=COMMANDS, choices=COMMANDS)
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    report: dict[str, Any] = {"machine": describe_machine("cpu", 1), "edits": arguments.edits}
    checkouts = {"this": ROOT} | ({"other": arguments.other.resolve()} if arguments.other else {})
    with tempfile.TemporaryDirectory(prefix="overpaint-commands-") as temporary:
        drawn = Path(temporary) / "drawn"
        report["shard_bytes"] = draw(drawn, arguments.edits, arguments.bytes)
        report["runs"] = []
        for command in arguments.commands:
            for name, checkout in checkouts.items():
                home = Path(temporary) / "home"
                shutil.copytree(drawn, home)
                found = measure(checkout, command, home)
                shutil.rmtree(home)
                report["runs"].append({"command": command, "checkout": name, **found})
                print(json.dumps(report["runs"][-1]), flush=True)
    if arguments.out is not None:
        arguments.out.write_text(json.dumps(report, indent=1) + "\n")


def draw(folder: Path, edits: int, size: int) -> dict[str, int]:
    """An output of one shard whose tars hold ``size`` bytes of noise for each edit."""
    noise = np.random.default_rng(0)

    def enlarge(row: dict[str, Any]) -> None:
        data = noise.bytes(size)
        row["_files"] = {"raw.png": data}
        if row["members"]:
            row["members"].append({"suffix": "raw.png", "data": data})

    store = make_output(folder, edits, shard_edits=edits, size=SIDE, change=enlarge)
    return {"in": (folder / "in/00000.tar").stat().st_size, "out": store.stat("00000.tar").size}


def measure(checkout: Path, command: str, home: Path) -> dict[str, Any]:
    """Peak of the command's own memory above its start, in bytes, and its seconds.

    Raises:
        RuntimeError: the command failed.
    """
    process = subprocess.Popen(
        [sys.executable, "-c", WORK, command, str(home)],
        cwd=checkout,
        env=environment(checkout),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdin is not None
    assert process.stdout is not None
    if process.stdout.readline() != "ready\n":
        raise RuntimeError(f"{command} does not start in {checkout}")
    idle = peak = resident(process.pid)
    process.stdin.write("\n")
    process.stdin.flush()
    while process.poll() is None:
        try:
            peak = max(peak, resident(process.pid))
        except OSError:  # it has just ended
            break
        time.sleep(POLL_S)
    if process.wait():
        raise RuntimeError(f"{command} failed in {checkout}")
    return {"idle": idle, "above_idle": peak - idle, "seconds": float(process.stdout.read())}


def resident(pid: int) -> int:
    """The bytes that only this process has resident."""
    return private_bytes(Path(f"/proc/{pid}/smaps").read_text(errors="replace").splitlines())


if __name__ == "__main__":
    main()
