"""Measures images/s of the job on Ray over images/s of the bare loop.

    for RUN in bare fused pools bare_1thread fused_1thread; do
        python -m infra.benchmarks.efficiency --only $RUN --out infra/benchmarks/efficiency
    done

All runs edit the demo's shards with the bundled model on two cores, from the tar to the published
shard. *bare* is the local loop (``pipeline/execution/local_loop.py``) with two threads of torch;
*fused* is one actor with two threads; *pools* is one mask, one encode and two decode actors with
one thread each. In these the networks use both cores, so Ray takes time from them. *bare_1thread*
and *fused_1thread* have one thread, an actor's default, and leave the other core to Ray.

Rates are measured from the end of the first part to the end of the last one. So they do not include
the start, but they include the boundaries of waves, where actors start again: none with the default
``run.shards_per_wave``, two with ``--shards-per-wave 2``. Each invocation measures one run; the
report keeps the latest result of each run.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import tempfile
import time
from pathlib import Path
from typing import Any

from infra.benchmarks.timed_edit import Part, recorded
from jobs.benchmark.machine import describe_machine
from jobs.ray_environment import set_ray_environment
from pipeline.config.config import Config
from pipeline.config.load import load_config
from pipeline.demo.dataset import write_demo_shards
from pipeline.records.staged import PartResult

WANTED = {"fused": 0.90, "fused_1thread": 0.90, "pools": 0.85}
BARE = {"fused": "bare", "fused_1thread": "bare_1thread", "pools": "bare"}
THREADS = 2
SHARDS = 6
ONE_THREAD = [f"stages.{name}.threads=1" for name in ("mask", "encode", "decode")]
TWO_THREADS = [f"stages.{name}.threads={THREADS}" for name in ("mask", "encode", "decode")]
LAYOUTS = {
    "bare": TWO_THREADS,
    "fused": [*TWO_THREADS, "run.layout=fused"],
    "pools": [*ONE_THREAD, "run.layout=pools", "stages.decode.actors=2"],
    "bare_1thread": ONE_THREAD,
    "fused_1thread": [*ONE_THREAD, "run.layout=fused"],
}


def main() -> None:
    """Measures one run and updates the report."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--only", choices=LAYOUTS, required=True)
    parser.add_argument("--samples", type=int, default=96, help="in each of six shards")
    parser.add_argument("--shards-per-wave", default="auto", help="of the job under Ray")
    parser.add_argument("--out", type=Path, required=True, help="path without suffix")
    arguments = parser.parse_args()
    path = arguments.out.with_suffix(".json")
    runs: dict[str, Any] = json.loads(path.read_text())["runs"] if path.exists() else {}
    with tempfile.TemporaryDirectory(prefix="overpaint-efficiency-") as folder:
        write_demo_shards(Path(folder, "in"), SHARDS, arguments.samples, 0)
        config = configured(arguments.only, folder, arguments.shards_per_wave)
        run = run_bare if arguments.only in BARE.values() else run_job
        runs[arguments.only] = summary(run(config))
    report = report_of(runs, arguments.shards_per_wave)
    path.write_text(json.dumps(report, indent=1) + "\n")
    plot(report, arguments.out.with_suffix(".png"))
    print(report["efficiency"], runs[arguments.only]["images_per_s"])


def configured(name: str, folder: str, shards_per_wave: str) -> Config:
    """The configuration of a run."""
    places = [f"input.shards={folder}/in/*.tar", f"output.path={folder}/out"]
    waves = [f"run.num_cpus={THREADS}", f"run.shards_per_wave={shards_per_wave}"]
    more = ["report.enabled=false", "model.device=cpu"]
    return load_config("demo", [*places, *waves, *more, *LAYOUTS[name]])


def run_bare(config: Config) -> list[Part]:
    """The job without Ray, in this process."""
    from pipeline.execution.local_loop import run_loop
    from pipeline.plan.plan import make_plan

    parts: list[Part] = []

    def record(result: PartResult) -> None:
        parts.append((time.time(), result.num_edits))

    assert not run_loop(make_plan(config, "cpu"), record).work
    return parts


def run_job(config: Config) -> list[Part]:
    """``overpaint edit``, with the time at which the driver learns of each part."""
    set_ray_environment(config)
    from jobs.edit.driver import edit

    with recorded() as parts:
        code, _ = edit(config)
    assert code == 0
    return parts


def summary(parts: list[Part]) -> dict[str, Any]:
    """The rate after the first part, and the longest pauses between parts."""
    start, end = parts[0][0], parts[-1][0]
    times = [when for when, _ in parts]
    pauses = sorted(after - before for before, after in itertools.pairwise(times))
    return {
        "images_per_s": round(sum(edits for _, edits in parts[1:]) / (end - start), 4),
        "edits": sum(edits for _, edits in parts),
        "seconds": round(end - start, 1),
        "between_parts_s": {
            "median": round(pauses[len(pauses) // 2], 2),
            "longest": [round(pause, 2) for pause in pauses[:-4:-1]],
        },
        "load_average": [round(load, 1) for load in os.getloadavg()],  # 1, 5, 15 min, at the end
        "at": [[round(when - start, 2), edits] for when, edits in parts],
    }


def report_of(runs: dict[str, Any], shards_per_wave: str) -> dict[str, Any]:
    """The report: the runs, and each layout's rate divided by that of its bare loop."""
    efficiency = {
        name: round(runs[name]["images_per_s"] / runs[bare]["images_per_s"], 4)
        for name, bare in BARE.items()
        if name in runs and bare in runs
    }
    return {
        "efficiency": efficiency,
        "wanted_at_least": WANTED,
        "met": {name: share >= WANTED[name] for name, share in efficiency.items()},
        "shards": SHARDS,
        "shards_per_wave": shards_per_wave,
        "layouts": LAYOUTS,
        "machine": describe_machine("cpu", THREADS),
        "runs": runs,
    }


def plot(report: dict[str, Any], path: Path) -> None:
    """Plots edits over time, from the first part on."""
    import matplotlib.pyplot as plt

    plt.switch_backend("agg")
    figure, axes = plt.subplots(figsize=(8, 4.5), layout="constrained")
    for name, run in report["runs"].items():
        done, times, edits = 0, [], []
        for when, number in run["at"]:
            done += number
            times.append(when)
            edits.append(done)
        share = report["efficiency"].get(name)
        label = name if share is None else f"{name}: {share:.2f} of {BARE[name]}"
        axes.plot(times, edits, label=f"{label}, {run['images_per_s']:.2f} images/s")
    axes.set_xlabel("seconds since the first part")
    axes.set_ylabel("edits done")
    axes.set_ylim(bottom=0)
    axes.legend()
    figure.savefig(path, dpi=110)
    plt.close(figure)


if __name__ == "__main__":
    main()
