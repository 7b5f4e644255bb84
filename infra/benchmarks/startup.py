"""Measures the time from ``overpaint edit`` to its first part, beside what cannot be avoided.

    python -m infra.benchmarks.startup --repeats 5 --out infra/benchmarks/startup.json

In turn, each in processes of its own: Ray's start alone (a process that imports Ray and starts a
local one), the load of a model alone (a process that imports the stages and loads the networks that
an actor of layout fused has), and ``overpaint edit`` until its first part is staged. That run is
then stopped. The wanted ratio is the third over the sum of the other two. ``--other`` names another
checkout, whose command is timed in the same turns.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from jobs.benchmark.machine import describe_machine
from pipeline.demo.dataset import write_demo_shards
from pipeline.steps.write_part import from_ipc, header_of

ROOT = Path(__file__).resolve().parents[2]
POLL_S, LIMIT_S = 0.05, 900.0
RAY = """
from jobs.ray_environment import set_ray_environment
from pipeline.config.load import load_config
config = load_config("demo")
set_ray_environment(config)
from jobs.edit.cluster import connect, disconnect
connect(config, False)
print("started", flush=True)
disconnect()
"""
LOAD = """
from pipeline.config.load import load_config
from pipeline.stages.build import load_stages
load_stages(load_config("demo"), "fused", "cpu")
print("started", flush=True)
"""


def main() -> None:
    """Draws the shards, times everything in turn, writes the JSON after each turn."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--other", type=Path, help="another checkout, timed in the same turns")
    parser.add_argument("--out", type=Path)
    parser.add_argument("overrides", nargs="*", help="of configs/demo.yaml")
    arguments = parser.parse_args()
    report: dict[str, Any] = {
        "machine": describe_machine("cpu", 1),
        "overrides": arguments.overrides,
        "turns": [],
    }
    with tempfile.TemporaryDirectory(prefix="overpaint-startup-") as home:
        write_demo_shards(Path(home) / "in", 4, 64, 0)
        timed = ways(Path(home), arguments.overrides, arguments.other)
        for _ in range(arguments.repeats):
            turn: dict[str, float] = {"load_average": round(os.getloadavg()[0], 1)}
            for name, measure in timed.items():
                turn |= {name + key: round(value, 2) for key, value in measure().items()}
            report["turns"].append(turn)
            report["medians"] = medians(report["turns"])
            print(json.dumps(turn), flush=True)
            if arguments.out is not None:
                arguments.out.write_text(json.dumps(report, indent=1) + "\n")
    print(json.dumps(report["medians"], indent=1))


def ways(
    home: Path, overrides: list[str], other: Path | None
) -> dict[str, Callable[[], dict[str, float]]]:
    """What is timed in each turn, by name; each returns seconds by the rest of the name."""
    timed: dict[str, Callable[[], dict[str, float]]] = {
        "ray": partial(until_started, RAY),
        "load": partial(until_started, LOAD),
        "first_part": partial(until_first_part, ROOT, home, overrides),
    }
    if other is not None:
        # of the other checkout the first part alone: Ray and the libraries are the same
        timed["other_first_part"] = partial(until_first_part, other.resolve(), home, overrides)
    return timed


def medians(turns: list[dict[str, float]]) -> dict[str, float]:
    """Medians of the seconds, and of each turn's ratio."""
    found = {name: statistics.median(turn[name] for turn in turns) for name in turns[0]}
    for prefix in ("", "other_"):
        if f"{prefix}first_part_s" in turns[0]:
            ratios = [
                turn[f"{prefix}first_part_s"] / (turn["ray_s"] + turn["load_s"]) for turn in turns
            ]
            found[f"{prefix}ratio"] = round(statistics.median(ratios), 2)
    return found


def until_started(code: str) -> dict[str, float]:
    """Seconds from the start of a process until it says that it has started."""
    start = time.perf_counter()
    with subprocess.Popen(
        [sys.executable, "-c", code], cwd=ROOT, env=environment(ROOT), stdout=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        said = process.stdout.readline()
        spent = time.perf_counter() - start
    if said != b"started\n" or process.returncode:
        raise RuntimeError(f"a process ended with {process.returncode} before it was timed")
    return {"_s": spent}


def until_first_part(checkout: Path, home: Path, overrides: list[str]) -> dict[str, float]:
    """Seconds from the command until a part is staged; the seconds of its steps are part of them.

    Args:
        checkout: whose command runs.
        home: holds the shards in ``in``.
        overrides: of ``configs/demo.yaml``.
    """
    with tempfile.TemporaryDirectory(dir=home, prefix="out-") as output:
        places = [f"input.shards={home}/in/*.tar", f"output.path={output}"]
        command = [sys.executable, "-m", "jobs.cli", "edit", "demo", *places, *overrides]
        start = time.perf_counter()
        process = subprocess.Popen(
            command, cwd=checkout, env=environment(checkout), stdout=subprocess.DEVNULL
        )
        try:
            while not (found := list(Path(output).glob("_parts/*/*-of-*.arrow"))):
                if process.poll() is not None or time.perf_counter() - start > LIMIT_S:
                    raise RuntimeError(
                        f"no part is staged; the run ended with {process.returncode}"
                    )
                time.sleep(POLL_S)
            spent = time.perf_counter() - start
            header = header_of(from_ipc(found[0].read_bytes()))
        finally:
            stop(process)
    return {"_s": spent, "_computing_s": sum(header.seconds.values())}


def stop(process: subprocess.Popen[bytes]) -> None:
    """Ends a run at once: the second signal does not wait for the parts in flight."""
    deadline = time.perf_counter() + LIMIT_S
    while process.poll() is None and time.perf_counter() < deadline:
        process.send_signal(signal.SIGTERM)
        time.sleep(1.0)
    process.kill()
    process.wait()


def environment(checkout: Path) -> dict[str, str]:
    return os.environ | {"PYTHONPATH": str(checkout)}


if __name__ == "__main__":
    main()
