"""Simulates how the graph scales: three pools of sleeping actors on logical GPUs.

    python -m infra.benchmarks.scale --gpus 8 32 64 --out infra/benchmarks/scale

The graph is that of a run (``jobs/edit/graph.py``), on a Ray that is told how many GPUs it has.
Stages sleep as long as Stable Diffusion 1.5 takes on a GPU: 0.3 s per image, of which mask, encode
and decode take the shares 0.14, 0.29 and 0.57. Parts have 64 images. Pools are sized as in a run
(``pipeline/sizing/pools.py``). The result is the share of time in which the actors of the slowest
pool work, from the moment when every actor has begun its first part until the slowest pool receives
no further part.

Only scheduling is simulated: actors are processes on this machine and parts are empty, so neither
the network nor the object store carries images.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import tempfile
import time
from collections import defaultdict
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import Any

from jobs.ray_environment import set_ray_environment
from pipeline.config.config import Config
from pipeline.config.load import parse_config
from pipeline.config.stages import STAGES
from pipeline.sizing.pools import Node, Pool, best_sizes

WANTED = 0.95
IMAGE_S = 0.3
SHARES = {"mask": 0.14, "encode": 0.29, "decode": 0.57}
PART_SIZE = 64
SHARD_PARTS = 16  # about a thousand images per shard
ACTOR_CPUS = 0.25
TASK_CPUS = 2.0  # for eight readers and writers at a time
Span = tuple[float, float]  # seconds
Spans = dict[str, dict[str, list[Span]]]  # by stage and process


def main() -> None:
    """Simulates a run for each number of GPUs; writes JSON and plot."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--gpus", type=int, nargs="+", default=[8, 32, 64])
    parser.add_argument("--parts-each", type=int, default=6, help="parts per GPU")
    parser.add_argument("--stretch", type=float, default=1.0, help="factor on all sleeping times")
    parser.add_argument("--out", type=Path, help="path without suffix; writes .json and .png")
    arguments = parser.parse_args()
    runs = []
    if arguments.out is not None and arguments.out.with_suffix(".json").exists():
        runs = json.loads(arguments.out.with_suffix(".json").read_text())["runs"]
    for gpus in arguments.gpus:
        run = measure(gpus, arguments.parts_each, arguments.stretch)
        print(json.dumps(run))
        runs = sorted(
            [*(one for one in runs if one["gpus"] != gpus), run], key=lambda one: one["gpus"]
        )
        if arguments.out is not None:  # after each run; a later invocation may add to the report
            write(runs, arguments.out)


def write(runs: list[dict[str, Any]], out: Path) -> None:
    """Writes the report and its plot."""
    report = {
        "picture_s": IMAGE_S,
        "shares": SHARES,
        "part_size": PART_SIZE,
        "wanted_at_least": WANTED,
        "met": all(run["utilisation"][run["slowest"]] >= WANTED for run in runs),
        "cores": len(os.sched_getaffinity(0)),
        "runs": runs,
    }
    out.with_suffix(".json").write_text(json.dumps(report, indent=2) + "\n")
    plot(report, out.with_suffix(".png"))


def sized_by_cost(gpus: int) -> dict[str, int]:
    """Actors of each pool, sized as by the planner, with one GPU each."""
    pools = [Pool(name, SHARES[name] * IMAGE_S, gpus=1.0) for name in STAGES]
    sizes = best_sizes(pools, [Node(cpus=gpus, gpus=gpus)])
    return {name: sizes[name] for name in STAGES}


def measure(gpus: int, parts_each: int, stretch: float) -> dict[str, Any]:
    """Simulates one run on a local Ray."""
    actors = sized_by_cost(gpus)
    config = simulated_config(actors)
    set_ray_environment(config)
    import ray

    from infra.benchmarks.simulate import Simulation, run_simulation
    from jobs.edit.graph import configure_context

    os.environ["RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO"] = "0"
    ray.init(
        address="local",
        num_cpus=round(gpus * ACTOR_CPUS + TASK_CPUS),
        num_gpus=gpus,
        include_dashboard=False,
        log_to_driver=False,
        logging_level=logging.ERROR,
    )
    configure_context()
    part_s = {name: share * IMAGE_S * PART_SIZE * stretch for name, share in SHARES.items()}
    with tempfile.TemporaryDirectory() as folder:
        shards = -(-parts_each * gpus // SHARD_PARTS)
        simulation = Simulation(shards, SHARD_PARTS, part_s, folder)
        start = time.time()
        run_simulation(simulation, config)
        took = time.time() - start
        spans = read_spans(Path(folder))
    ray.shutdown()
    ideal = min(actors[name] / part_s[name] for name in STAGES)
    return {
        "gpus": gpus,
        "actors": actors,
        "stretch": stretch,
        "parts": shards * SHARD_PARTS,
        "seconds": round(took, 1),
        **steady_state(spans, actors, part_s),
        "ideal_images_per_s": round(ideal * PART_SIZE * stretch, 2),
    }


def simulated_config(actors: dict[str, int]) -> Config:
    """A configuration in which the whole run is one wave, so that no boundary is measured."""
    pools = {
        name: {"actors": number, "gpus": 1.0, "cpus": ACTOR_CPUS} for name, number in actors.items()
    }
    return parse_config(
        {
            "input": {"shards": "simulated"},
            "output": {"path": "simulated"},
            "stages": pools,
            "run": {"layout": "pools", "shards_per_wave": 100_000, "progress_every_s": 30},
        }
    )


def read_spans(folder: Path) -> Spans:
    """The times at which each actor of each stage worked, in order."""
    spans: Spans = defaultdict(dict)
    for file in folder.iterdir():
        stage, _, process = file.name.partition("-")
        lines = [line.split() for line in file.read_text().splitlines()]
        spans[stage][process] = [(float(start), float(end)) for start, end in lines]
    return spans


def steady_state(spans: Spans, actors: dict[str, int], part_s: dict[str, float]) -> dict[str, Any]:
    """The slowest pool, the utilization and gaps of all pools, and images/s, while all work.

    The measured time ends with the last part of the stage before the slowest pool, or, if that is
    earlier, with the start of that pool's last part: from then on the pool only empties its queues.
    """
    slowest = max(STAGES, key=lambda name: part_s[name] / actors[name])
    place = STAGES.index(slowest)
    start = max(each[0][0] for stage in spans.values() for each in stage.values())
    last_begun = max(each[-1][0] for each in spans[slowest].values())
    last_come = max(each[-1][1] for each in spans[STAGES[place - 1]].values())
    end = min(last_begun, last_come) if place else last_begun
    busy = {name: seconds_between(spans[name], start, end) for name in STAGES}
    stretch = part_s[slowest] / (SHARES[slowest] * IMAGE_S * PART_SIZE)
    parts_per_s = busy[slowest] / part_s[slowest] / (end - start)
    return {
        "slowest": slowest,
        "utilisation": {
            name: round(busy[name] / (actors[name] * (end - start)), 4) for name in STAGES
        },
        "median_gap_s": {name: round(median_gap(spans[name], start, end), 3) for name in STAGES},
        "measured_s": round(end - start, 1),
        "start_up_s": round(start - min(e[0][0] for s in spans.values() for e in s.values()), 1),
        "actors_at_work": {name: len(spans[name]) for name in STAGES},
        "images_per_s": round(parts_per_s * PART_SIZE * stretch, 2),
    }


def seconds_between(spans: dict[str, list[Span]], start: float, end: float) -> float:
    """The summed working time of a pool's actors between two times."""
    return sum(
        max(0.0, min(stop, end) - max(begin, start))
        for each in spans.values()
        for begin, stop in each
    )


def median_gap(spans: dict[str, list[Span]], start: float, end: float) -> float:
    """The median time between two parts of an actor: its overhead per call, if it never waits."""
    gaps = [
        after[0] - before[1]
        for each in spans.values()
        for before, after in pairwise(each)
        if start <= before[1] and after[0] <= end
    ]
    return median(gaps) if gaps else 0.0


def plot(report: dict[str, Any], path: Path) -> None:
    """Plots images per second and utilization over GPUs."""
    import matplotlib.pyplot as plt

    plt.switch_backend("agg")
    figure, (left, right) = plt.subplots(1, 2, figsize=(10, 4), layout="constrained")
    runs = report["runs"]
    gpus = [run["gpus"] for run in runs]
    left.plot(gpus, [run["images_per_s"] for run in runs], marker="o", label="simulated")
    perfect = [count / report["picture_s"] for count in gpus]
    left.plot(gpus, perfect, "--", color="#999999", label="GPUs / 0.3 s")
    ideal = [run["ideal_images_per_s"] for run in runs]
    left.plot(gpus, ideal, ":", color="#2a6fbb", label="whole GPUs per pool, always busy")
    left.set_ylabel("images/s")
    left.set_ylim(bottom=0)
    for name in report["shares"]:
        right.plot(gpus, [run["utilisation"][name] for run in runs], marker="o", label=name)
    right.axhline(
        report["wanted_at_least"], linestyle="--", color="#b03030", label="wanted: slowest pool"
    )
    right.set_ylim(0, 1.05)
    right.set_ylabel("share of time working")
    for axes in (left, right):
        axes.set_xlabel("logical GPUs")
        axes.set_xticks(gpus)
        axes.legend(loc="lower right")
    figure.savefig(path, dpi=110)
    plt.close(figure)


if __name__ == "__main__":
    main()
