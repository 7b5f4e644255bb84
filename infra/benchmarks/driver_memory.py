"""Measures the driver's resident memory over a long run of no-op stages, in several waves.

    python -m infra.benchmarks.driver_memory --waves 5 --out infra/benchmarks/driver_memory

The graph is that of a run (``infra/benchmarks/simulate.py``): reader, fused pool, writer, one block
per part, waves of shards. Stages do nothing and parts are empty. The result is the driver's memory
at the end, divided by its memory after a tenth of the parts.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from pathlib import Path
from typing import Any

import psutil

from jobs.ray_environment import set_ray_environment
from pipeline.config.config import Config
from pipeline.config.load import parse_config

WANTED = 1.2
PARTS = 50  # per shard
SAMPLES = 200


def main() -> None:
    """Runs the measurement; prints the result, writes JSON and plot."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--parts", type=int, default=10_000)
    parser.add_argument("--waves", type=int, default=5)
    parser.add_argument("--actors", type=int, default=1, help="more actors take less time")
    parser.add_argument("--out", type=Path, help="path without suffix; writes .json and .png")
    arguments = parser.parse_args()
    report = measure(arguments.parts, arguments.waves, arguments.actors)
    text = json.dumps(
        {name: value for name, value in report.items() if name != "samples"}, indent=2
    )
    print(text)
    if arguments.out is not None:
        arguments.out.with_suffix(".json").write_text(json.dumps(report, indent=1) + "\n")
        plot(report, arguments.out.with_suffix(".png"))


def measure(num_parts: int, num_waves: int, actors: int) -> dict[str, Any]:
    """Runs the waves on a local Ray, and samples this process's memory as parts come in."""
    shards = num_parts // PARTS
    config = simulated_config(shards // num_waves, actors)
    set_ray_environment(config)
    from infra.benchmarks.simulate import Simulation, run_simulation
    from jobs.edit.cluster import connect
    from jobs.edit.graph import configure_context

    connect(config, verbose=False)
    configure_context()
    process, start = psutil.Process(), time.monotonic()
    every = max(1, num_parts // SAMPLES)
    samples: list[dict[str, float]] = []
    waves: list[int] = []

    def sample(parts: int) -> None:
        if parts % every == 0:
            memory = process.memory_info().rss
            took = round(time.monotonic() - start, 1)
            samples.append({"parts": parts, "rss_bytes": memory, "seconds": took})

    run_simulation(Simulation(shards, PARTS), config, sample, waves.append)
    took, cpu = time.monotonic() - start, process.cpu_times()
    early = next(one["rss_bytes"] for one in samples if one["parts"] >= num_parts // 10)
    ratio = samples[-1]["rss_bytes"] / early
    return {
        "parts": samples[-1]["parts"],
        "waves": len(waves),
        "actors": actors,
        "parts_when_waves_ended": waves,
        "rss_bytes_at_a_tenth": early,
        "rss_bytes_at_the_end": samples[-1]["rss_bytes"],
        "ratio": round(ratio, 4),
        "wanted_at_most": WANTED,
        "met": ratio <= WANTED,
        "seconds": round(took, 1),
        "driver_cpu_seconds": round(cpu.user + cpu.system, 1),
        "cores": len(os.sched_getaffinity(0)),
        "samples": samples,
    }


def simulated_config(shards_per_wave: int, actors: int) -> Config:
    """A configuration with fused actors on two CPUs."""
    return parse_config(
        {
            "input": {"shards": "simulated"},
            "output": {"path": "simulated"},
            "stages": {"decode": {"actors": actors}},
            "run": {
                "layout": "fused",
                "num_cpus": 2,
                "shards_per_wave": shards_per_wave,
                "progress_every_s": 60,
            },
        }
    )


def plot(report: dict[str, Any], path: Path) -> None:
    """Plots memory over parts, with the ends of the waves and the limit."""
    import matplotlib.pyplot as plt

    plt.switch_backend("agg")
    figure, axes = plt.subplots(figsize=(9, 4), layout="constrained")
    samples = report["samples"]
    axes.plot(
        [one["parts"] for one in samples],
        [one["rss_bytes"] / 1e6 for one in samples],
        label="driver, resident",
    )
    limit = report["wanted_at_most"] * report["rss_bytes_at_a_tenth"] / 1e6
    axes.axhline(limit, linestyle="--", color="#b03030", label="1.2 times the memory at a tenth")
    for number, parts in enumerate(report["parts_when_waves_ended"]):
        axes.axvline(
            parts, color="#cccccc", linewidth=0.8, label=None if number else "end of a wave"
        )
    axes.set_ylim(bottom=0)
    axes.set_xlabel("parts done")
    axes.set_ylabel("MB")
    axes.legend(loc="lower right")
    axes.set_title(f"{report['parts']} no-op parts: ratio {report['ratio']:.3f}")
    figure.savefig(path, dpi=110)
    plt.close(figure)


if __name__ == "__main__":
    main()
