"""``overpaint evaluate``: edits a benchmark with any method and measures it by its protocol."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from jobs import exit_codes
from jobs.edit.cluster import disconnect
from jobs.edit.devices import device_of
from jobs.edit.driver import edit
from jobs.edit.writable import check_writable
from jobs.evaluate.judges import Judging
from jobs.evaluate.options import config_for, home_of
from jobs.logs import tell, use_format
from pipeline.config.config import Config
from pipeline.config.load import ConfigError
from pipeline.demo.edits import KINDS
from pipeline.evaluation import demo_model, demo_world, imagenet, pie_bench, tedbench
from pipeline.evaluation.curves import Point, compare, overrides_for
from pipeline.evaluation.edit_rows import edits_parquet
from pipeline.evaluation.intervals import bootstrap
from pipeline.evaluation.measure import Measured, measure, summary
from pipeline.evaluation.plots import plot_curves
from pipeline.evaluation.tables import report_text
from pipeline.evaluation.tasks import BenchmarkError, Task, first_tasks, write_shards
from pipeline.execution.local_loop import run_loop
from pipeline.plan.plan import make_plan
from pipeline.storage.store import Store

BENCHMARKS: dict[str, Any] = {
    "pie-bench": pie_bench,
    "tedbench": tedbench,
    "imagenet": imagenet,
    "demo": demo_world,
}
DEMO_TASKS = 32


class Unfinished(Exception):
    """A run of the evaluation did not finish; the same command resumes it."""

    def __init__(self, code: int) -> None:
        super().__init__(f"a run ended with exit code {code}")
        self.code = code


def evaluate(options: argparse.Namespace) -> int:
    """Runs and measures one method, or with ``--sweep`` several methods over their ratios.

    Writes ``evaluation.json``, ``evaluation.md``, ``edits.parquet`` with the figures of each edit
    and, for a sweep, ``evaluation.png``; with ``--card`` also ``card.md``. Edits that are already
    published are not recomputed.

    Returns:
        The exit code: 0, or that of the run that did not finish.

    Raises:
        ConfigError: the benchmark's folder, the configuration, a method or the weights of a
            measure cannot be used.
    """
    benchmark = BENCHMARKS[options.benchmark]
    of_card = demo_model.OVERRIDES if options.card else ()
    options.overrides = [*getattr(benchmark, "OVERRIDES", ()), *of_card, *options.overrides]
    config = config_for(options)
    use_format(config.run.log_format)
    home = Store(home_of(options), config.output.storage_options)
    check_writable(home)
    try:
        tasks = first_tasks(_tasks(options), options.limit)
        if not tasks:
            raise BenchmarkError(f"{options.data}: holds no task of {options.benchmark}")
        judging = Judging(options, config, tasks, home)
        write_shards(tasks, home)
        try:
            report, edits = (_sweep if options.sweep else _one)(options, judging)
        finally:
            disconnect()
    except BenchmarkError as error:
        raise ConfigError(str(error)) from error
    except Unfinished as error:
        return error.code
    report = {"benchmark": options.benchmark, "tasks": len(tasks), **report}
    text = report_text(benchmark.COLUMNS, benchmark.PUBLISHED, report, benchmark.NOTES)
    home.put("edits.parquet", edits_parquet(edits))
    home.put("evaluation.md", f"{text}\n".encode())
    if options.sweep:
        _plot(report, options.benchmark, home)
    home.put("evaluation.json", f"{json.dumps(report, indent=2)}\n".encode())
    tell(text, to=sys.stdout)
    if options.card:
        (found,) = report["ours"].values()
        card = demo_model.card_text(found)
        home.put("card.md", f"{card}\n".encode())
        tell(f"\n{card}", to=sys.stdout)
    tell(f"{home.url}/evaluation.json", to=sys.stdout)
    return exit_codes.OK


def _tasks(options: argparse.Namespace) -> Iterator[Task]:
    """The tasks in the benchmark's files; those of the demo world are drawn."""
    if options.benchmark == "demo":
        options.limit = options.limit or DEMO_TASKS
        default = KINDS if options.card else demo_world.KINDS
        return demo_world.read_tasks(tuple(options.kinds or default))
    if options.data is None:
        raise ConfigError(
            f"evaluate {options.benchmark}: --data DIR is required: the benchmark's folder"
        )
    if options.benchmark == "imagenet":
        return imagenet.read_tasks(Path(options.data), options.split)
    read: Iterator[Task] = BENCHMARKS[options.benchmark].read_tasks(Path(options.data))
    return read


Edits = list[tuple[str, float, list[Measured]]]  # method, ratio, its edits


def _one(options: argparse.Namespace, judging: Judging) -> tuple[dict[str, Any], Edits]:
    """Runs and measures the configured method."""
    config = config_for(options)
    found, measured = _run_and_measure(options, config, judging)
    method = config.method
    report = {
        "model": config.model.path,
        "method": method.model_dump(mode="json"),
        "ours": {f"{method.name}, {method.ratio:g}": found},
    }
    return report, [(method.name, method.ratio, measured)]


def _sweep(options: argparse.Namespace, judging: Judging) -> tuple[dict[str, Any], Edits]:
    """Runs and measures each method at each ratio, without the pixel composite."""
    points: list[Point] = []
    ours, edits, settings = {}, [], {}
    for name in options.methods:
        for ratio in options.ratios:
            folder = f"out/{name.replace(' ', '_')}-{ratio:g}"
            config = config_for(options, folder, overrides_for(name, ratio))
            found, measured = _run_and_measure(options, config, judging)
            by_key = {item.key: item.figures for item in measured if item.figures}
            points.append(Point(name, ratio, found["figures"], by_key))
            ours[f"{name}, {ratio:g}"] = found
            edits.append((name, ratio, measured))
            settings[name] = config.method.model_dump(mode="json")
            tell(f"{name}, {ratio:g}: {json.dumps(found['counts'])}", to=sys.stdout)
    report = {
        "model": config.model.path,
        "methods": settings,
        "points": [{"method": p.method, "ratio": p.ratio, "figures": p.figures} for p in points],
        "compared": _compared(points, options.methods),
        "ours": ours,
    }
    return report, edits


def _compared(points: list[Point], methods: list[str]) -> list[dict[str, Any]]:
    """Compares DiffEdit with each other method, with intervals for figures that are means."""
    found = []
    for other in methods:
        if other == "DiffEdit" or "DiffEdit" not in methods:
            continue
        item = compare(points, "DiffEdit", other)
        if item is None:
            found.append({"better": "DiffEdit", "other": other, "overlap": None})
        else:
            intervals = bootstrap(points, "DiffEdit", other, item["compared_at"])
            found.append(item | {"bootstrap": intervals})
    return found


def _run_and_measure(
    options: argparse.Namespace, config: Config, judging: Judging
) -> tuple[dict[str, Any], list[Measured]]:
    """Computes the edits that are not published yet, then measures all.

    Raises:
        Unfinished: the run was interrupted, or shards are left unpublished.
    """
    if options.plain:
        plan = run_loop(make_plan(config, device_of(config)))
    else:
        code, plan = edit(config, verbose=options.verbose, keep_ray=True)
        if code != exit_codes.OK:
            raise Unfinished(code)
    judges = judging.make_judges(plan.device)
    measured = measure(config, plan.model.sizes_for(config.model), judges)
    return summary(measured, judges), measured


def _plot(report: dict[str, Any], benchmark: str, home: Store) -> None:
    points = [Point(item["method"], item["ratio"], item["figures"]) for item in report["points"]]
    try:
        drawn = plot_curves(points, f"{benchmark}: trade-off")
    except ImportError:
        tell("no plot: matplotlib is not installed (pip install 'overpaint[train]')", to=sys.stdout)
        return
    if drawn is None:
        tell("no plot: no distance and agreement were measured for all points", to=sys.stdout)
    else:
        home.put("evaluation.png", drawn)
