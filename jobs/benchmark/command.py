"""``overpaint benchmark``: times the loops and diffusers' own in turn; writes JSON and a plot."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

from jobs.benchmark.baseline import DiffusersLoop
from jobs.benchmark.loops import BareLoop, Timing, model_flops, run_whole
from jobs.benchmark.machine import describe_machine, local_device, matrix_rate
from jobs.benchmark.models import model_folder
from jobs.benchmark.plot import plot_curves, plot_report
from jobs.benchmark.report import WORKLOADS, print_report, ratios_of, runs_of, write_report
from jobs.benchmark.sweep import SWEEPS, run_sweep
from jobs.benchmark.work import BenchmarkSample, draw_samples
from jobs.edit.writable import check_writable
from pipeline.config.config import Config
from pipeline.config.load import ConfigError, apply_override, parse_config
from pipeline.config.spelling import did_you_mean
from pipeline.config.stages import STAGES
from pipeline.storage.store import Store

BASELINE_FAMILY = "stable-diffusion"


@dataclass(frozen=True)
class Contestant:
    """A loop, the samples that it is timed on, and those that it runs once before."""

    run: Callable[[list[BenchmarkSample]], Timing]
    samples: list[BenchmarkSample]
    warm_up: list[BenchmarkSample]


@dataclass(frozen=True)
class Options:
    """What to measure.

    Attributes:
        model: a folder, a hub id, "bundled", or a name in ``RANDOM`` ("random:sd15").
        overrides: key=value of the config, as for ``overpaint edit``; default: the paper's
            settings.
        device: auto, cpu or cuda.
        dtype: of the network.
        baseline_dtype: of the baseline's network; None: the same.
        threads: of torch on a CPU, for both.
        edits: per run of the bare loop; a multiple of 4.
        baseline_edits: per run of the baseline; a multiple of 4.
        repeats: of every loop, interleaved.
        whole: also measure the whole job in one process.
        compiled: also measure a baseline with torch.compile.
        time_limit_s: start no loop that would end later than this, in seconds from the start.
        models: folder for random models; None: next to ``out``.
        sweep: names of ``SWEEPS``: measure curves of the cost instead of comparing loops.
        out: path of the JSON and the PNG, whose suffixes .json and .png are added.
    """

    model: str
    overrides: tuple[str, ...]
    device: str
    dtype: str
    baseline_dtype: str | None
    threads: int
    edits: int
    baseline_edits: int
    repeats: int
    whole: bool
    compiled: bool
    time_limit_s: float | None
    models: Path | None
    sweep: tuple[str, ...]
    out: Path


def benchmark(options: Options) -> int:
    """Measures, writes the report and its plot, prints the figures."""
    start = time.monotonic()
    check_writable(Store(str(options.out.parent)))
    config, device = benchmark_config(options)
    report = (
        measure_curves(options, config, device)
        if options.sweep
        else measure(options, config, device, start)
    )
    path = options.out.with_suffix(".json")
    if options.sweep:
        write_report(report, options.out)
    draw = plot_curves if options.sweep else plot_report
    if options.sweep or set(report["runs"]) & {f"bare_{name}" for name in WORKLOADS}:
        draw(report, options.out.with_suffix(".png"))
    if not options.sweep:
        print_report(report)
    print(f"written: {path}")
    return 0


def benchmark_config(options: Options) -> tuple[Config, str]:
    """The config to measure, and its resolved device.

    Raises:
        ConfigError: a key or value is not allowed, or a number of edits is not a multiple of 4.
    """
    for name in options.sweep:
        if name not in SWEEPS:
            hint = did_you_mean(name, SWEEPS)
            raise ConfigError(f"--sweep {name}: allowed are {', '.join(SWEEPS)}{hint}")
    for name in ("edits", "baseline_edits"):
        if getattr(options, name) % 4 and not options.sweep:
            raise ConfigError(
                f"--{name.replace('_', '-')} {getattr(options, name)}: allowed are multiples of 4"
            )
    tree: dict[str, Any] = {
        "input": {"shards": "benchmark"},
        "output": {"path": "benchmark"},
        "model": {"dtype": options.dtype, "device": options.device},
        # Random networks predict almost the same for all texts; with a floor most masks are empty.
        "method": {"mask": {"floor": 0.0}},
        "stages": {name: {"threads": options.threads} for name in STAGES},
    }
    for override in options.overrides:
        apply_override(tree, override)
    tree["model"]["path"] = model_folder(
        options.model,
        tree["model"]["dtype"],
        options.models or options.out.parent / "models",
        "cuda" if local_device(tree["model"]["device"]) == "cuda" else "cpu",
    )
    config = parse_config(tree)
    return config, local_device(config.model.device)


def measure_curves(options: Options, config: Config, device: str) -> dict[str, Any]:
    """The report of sweeps: the cost of an edit at each of their points."""
    loop = BareLoop(config, device)
    size = loop.model.info.size_for(config.model)
    rows = [
        row
        for name in options.sweep
        for row in run_sweep(name, loop, size, options.edits, options.repeats)
    ]
    return _circumstances(options, config, device, size) | {"points": rows}


def measure(options: Options, config: Config, device: str, start: float) -> dict[str, Any]:
    """The report: runs every loop ``repeats`` times, in turn.

    The report is written after each run. A loop starts only if ``time_limit_s`` leaves as much time
    as its last run took; ``unfinished`` names the runs that are left out.

    Args:
        options, config, device: see ``benchmark_config``.
        start: ``time.monotonic`` at the start of the time limit.
    """
    limit_s = math.inf if options.time_limit_s is None else options.time_limit_s
    loop = BareLoop(config, device)
    size = loop.model.info.size_for(config.model)
    rate = matrix_rate(device, loop.model.dtype)
    flops = model_flops(loop.model, size)
    head = _circumstances(options, config, device, size) | {
        "matrix_flop_per_s": rate,
        "flop": flops,
    }
    contestants = _contestants(options, loop, size)
    timings: dict[str, list[Timing]] = {name: [] for name in contestants}
    unfinished: list[str] = []
    report = head | {"runs": {}, "ratio": {}}
    for number in range(1, options.repeats + 1):
        for name, each in contestants.items():
            expected = timings[name][-1].seconds if timings[name] else 0.0
            if time.monotonic() - start + expected > limit_s:
                unfinished.append(f"{name} {number}")
                print(f"{number}/{options.repeats} {name}: left out, no time left", flush=True)
                continue
            if number == 1 and each.warm_up:
                each.run(each.warm_up)  # for lazy loading, compilation and memory allocation
            timings[name].append(each.run(each.samples))
            edits_per_s = timings[name][-1].edits_per_s
            print(f"{number}/{options.repeats} {name}: {edits_per_s:.3f} edits/s", flush=True)
            runs = runs_of(timings, flops, rate, options.edits)
            report = head | {"runs": runs, "ratio": ratios_of(runs)}
            write_report(report, options.out)
    report |= {"unfinished": unfinished}
    write_report(report, options.out)
    return report


def _circumstances(options: Options, config: Config, device: str, size: int) -> dict[str, Any]:
    """The machine, options and config of a report."""
    tree = config.model_dump(mode="json", include={"model", "method", "stages", "run"})
    tree["model"]["path"] = options.model  # rather than the folder of a random model
    return {
        "machine": describe_machine(device, options.threads),
        "options": asdict(options) | {"out": options.out.name, "models": None},
        "config": tree,
        "size": size,
    }


def _contestants(options: Options, loop: BareLoop, size: int) -> dict[str, Contestant]:
    """The loops by name, one of each kind for each workload; the most important ones first.

    On a GPU a loop warms up on the shapes that are timed: memory, kernels and the code of a
    compiled network are made once per shape.
    """
    found: dict[str, Contestant] = {}
    work = {name: draw_samples(options.edits // n, n, size) for name, n in WORKLOADS.items()}
    found |= _baselines(options, loop, size, compiled=False)
    for workload, samples in work.items():
        warm_up = samples if loop.device == "cuda" else samples[:1]
        found[f"bare_{workload}"] = Contestant(loop.run, samples, warm_up)
    if options.whole:
        for workload, samples in work.items():
            warm_up = [] if loop.device == "cuda" else samples[:1]  # warm from the bare loop
            found[f"whole_{workload}"] = Contestant(partial(run_whole, loop), samples, warm_up)
    if options.compiled:
        found |= _baselines(options, loop, size, compiled=True)
    return found


def _baselines(
    options: Options, loop: BareLoop, size: int, *, compiled: bool
) -> dict[str, Contestant]:
    """diffusers' loop for each workload; empty for a family that it does not support."""
    config, info = loop.config, loop.model.info
    if info.family != BASELINE_FAMILY:
        print(f"no baseline: diffusers' DiffEdit does not support {info.family}", flush=True)
        return {}
    dtype = options.baseline_dtype or config.model.dtype
    baseline = DiffusersLoop(info.folder, loop.device, dtype, config.method, compiled)
    name = "baseline_compiled" if compiled else "baseline"
    return {
        f"{name}_{workload}": Contestant(
            baseline.run,
            draw_samples(options.baseline_edits // edits, edits, size),
            draw_samples(1, 1, size),
        )
        for workload, edits in WORKLOADS.items()
    }
