"""``overpaint evaluate``: a public benchmark, edited by any method and measured by its protocol."""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

from jobs.cluster import device_of
from pipeline.evaluation import demo_world, imagenet, pie_bench, tedbench
from pipeline.evaluation.curves import Point, compare, overrides_for
from pipeline.evaluation.measure import Agreement, measure, summary
from pipeline.evaluation.plots import plot_curves
from pipeline.evaluation.tables import table
from pipeline.evaluation.tasks import BenchmarkError, Task, first_tasks, write_shards
from pipeline.plan.loop import run_loop
from pipeline.plan.plan import make_plan
from pipeline.words.config import Config
from pipeline.words.config_file import ConfigError, load_config

BENCHMARKS: dict[str, Any] = {
    "pie-bench": pie_bench,
    "tedbench": tedbench,
    "imagenet": imagenet,
    "demo": demo_world,
}
DEMO_TASKS = 32
# What is measured is what the method made: no second compression, the model's own picture.
FIXED = ("output.resolution=model", "output.format=png")


def evaluate(options: argparse.Namespace) -> int:
    """Runs and measures one method, or with ``--sweep`` several methods over their ratios.

    Writes ``evaluation.json``, ``evaluation.md`` and, of a sweep, ``evaluation.png``. Edits that
    are published already are not computed again.

    Raises:
        ConfigError: the benchmark's folder, the configuration or a method is not usable.
    """
    home = Path(options.out or f"runs/evaluate/{options.benchmark}")
    if options.benchmark == "augmentation":
        from jobs.evaluate_augmentation import evaluate_augmentation

        return evaluate_augmentation(options.config or "augment_demo", options.overrides, home)
    options.config = options.config or "demo"
    benchmark = BENCHMARKS[options.benchmark]
    try:
        tasks = first_tasks(_tasks(options), options.limit)
    except BenchmarkError as error:
        raise ConfigError(str(error)) from error
    if not tasks:
        raise ConfigError(f"{options.data}: no task of {options.benchmark} is there")
    write_shards(tasks, home / "in")
    if options.sweep:
        report = _sweep(options, benchmark, home)
    else:
        report = _one(options, benchmark, home)
    report = {"benchmark": options.benchmark, "tasks": len(tasks), **report}
    (home / "evaluation.json").write_text(json.dumps(report, indent=2) + "\n")
    text = _tables(benchmark, report)
    (home / "evaluation.md").write_text(text + "\n")
    print(text)
    print(f"{home}/evaluation.json")
    return 0


def _tasks(options: argparse.Namespace) -> Iterator[Task]:
    """The tasks of the benchmark's own files; the demo world draws its own."""
    if options.benchmark == "demo":
        options.limit = options.limit or DEMO_TASKS
        return demo_world.read_tasks()
    if options.data is None:
        raise ConfigError(f"evaluate {options.benchmark}: --data DIR must name the benchmark")
    if options.benchmark == "imagenet":
        return imagenet.read_tasks(Path(options.data), options.split)
    read: Iterator[Task] = BENCHMARKS[options.benchmark].read_tasks(Path(options.data))
    return read


def _one(options: argparse.Namespace, benchmark: Any, home: Path) -> dict[str, Any]:
    """The method of the configuration, as it is."""
    config = _config(options, benchmark, home, "out", [])
    found = _run_and_measure(config, benchmark)
    name = f"{config.method.name}, {config.method.ratio:g}"
    return {"method": config.method.model_dump(mode="json"), "ours": {name: found}}


def _sweep(options: argparse.Namespace, benchmark: Any, home: Path) -> dict[str, Any]:
    """Each method at each ratio, the pixel composite off."""
    points, ours = [], {}
    method: dict[str, Any] = {}
    for name in options.methods:
        for ratio in options.ratios:
            folder = f"out/{name.replace(' ', '_')}-{ratio:g}"
            overrides = overrides_for(name, ratio)
            config = _config(options, benchmark, home, folder, overrides)
            found = _run_and_measure(config, benchmark)
            points.append(Point(name, ratio, found["figures"]))
            ours[f"{name}, {ratio:g}"] = found
            method = method or config.method.model_dump(mode="json")
            print(f"{name}, {ratio:g}: {json.dumps(found['counts'])}", flush=True)
    drawn = plot_curves(points, f"{options.benchmark}: trade-off", home / "evaluation.png")
    if not drawn:
        print("no plot: the points have no pair of distance and agreement in common")
    compared = [compare(points, "DiffEdit", name) for name in options.methods if name != "DiffEdit"]
    return {
        "method": method,
        "points": [asdict(point) for point in points],
        "compared": [item for item in compared if item is not None],
        "ours": ours,
    }


def _config(
    options: argparse.Namespace, benchmark: Any, home: Path, folder: str, overrides: list[str]
) -> Config:
    places = [f"input.shards={home}/in/*.tar", f"output.path={home}/{folder}"]
    of_benchmark = list(getattr(benchmark, "OVERRIDES", ()))
    every = [*of_benchmark, *options.overrides, *FIXED, *overrides, *places]
    return load_config(options.config, every)


def _run_and_measure(config: Config, benchmark: Any) -> dict[str, Any]:
    """The plain loop over what is not published yet, then the figures of everything."""
    plan = run_loop(make_plan(config, device_of(config)))
    agreement: Agreement | None = getattr(benchmark, "agreement", None)
    return summary(measure(config, plan.model.size_for(config.model), agreement))


def _tables(benchmark: Any, report: dict[str, Any]) -> str:
    """The table, what it leaves out, and how the curves compare."""
    ours = {name: found["figures"] for name, found in report["ours"].items()}
    lines = [table(benchmark.COLUMNS, benchmark.PUBLISHED, ours), ""]
    known = {column for figures in ours.values() for column in figures}
    missing = [column for column in benchmark.COLUMNS if column not in known]
    if missing:
        lines.append(
            f"Not measured: {', '.join(missing)}; they need scores that are not configured."
        )
    for name, found in report["ours"].items():
        counts = ", ".join(f"{number} {status}" for status, number in found["counts"].items())
        lines.append(f"{name}: {counts}.")
    lines.append("Unchanged edits count with their input as the result; failed ones do not count.")
    for item in report.get("compared", []):
        where = "wherever they overlap" if item["above_everywhere"] else "not everywhere"
        low, high = item["overlap"]
        lines.append(
            f"{item['better']} lies above {item['other']} {where} "
            f"({item['distance']} from {low:.2f} to {high:.2f})."
        )
    return "\n".join(lines)
