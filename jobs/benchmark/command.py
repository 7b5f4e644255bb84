"""``overpaint benchmark``: the loops beside diffusers' own, interleaved, as JSON and an image."""

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
from pipeline.config.config import Config
from pipeline.config.load import ConfigError, apply_override, parse_config
from pipeline.config.stages import STAGES

BASELINE_FAMILY = "stable-diffusion"


@dataclass(frozen=True)
class Contestant:
    """A loop, what it is timed on, and what it runs once before."""

    run: Callable[[list[BenchmarkSample]], Timing]
    samples: list[BenchmarkSample]
    warm_up: list[BenchmarkSample]


@dataclass(frozen=True)
class Options:
    """What to measure.

    Attributes:
        model: a folder, a hub id, "bundled", "random:sd15" or "random:sdxl".
        overrides: key=value of the config, as of ``overpaint edit``; the paper's settings else.
        device: auto, cpu or cuda.
        dtype: of the network.
        baseline_dtype: of the baseline's; None: the same.
        threads: of torch on a CPU, in both.
        edits: of a run of the bare loop; a multiple of 4.
        baseline_edits: of a run of the baseline, which takes each alone; a multiple of 4.
        repeats: of every loop, interleaved.
        whole: measure the whole job in one process as well.
        compiled: torch.compile for a further baseline.
        time_limit_s: no loop is begun that would end later than this after the start, if given.
        models: where random models are kept; None: beside ``out``.
        sweep: names of ``SWEEPS``: curves of the cost, instead of the loops beside the baseline.
        out: JSON and PNG are written to this path with .json and .png.
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
    """Measures, writes the report and its image, prints the figures."""
    start = time.monotonic()
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
    """The config that is measured, and what its device stands for.

    Raises:
        ConfigError: a key or value is not allowed, or the numbers of edits do not fit.
    """
    for name in options.sweep:
        if name not in SWEEPS:
            raise ConfigError(f"--sweep {name}: allowed are {', '.join(SWEEPS)}")
    for name in ("edits", "baseline_edits"):
        if getattr(options, name) % 4 and not options.sweep:
            raise ConfigError(
                f"--{name.replace('_', '-')} {getattr(options, name)}: allowed are multiples of 4"
            )
    tree: dict[str, Any] = {
        "input": {"shards": "benchmark"},
        "output": {"path": "benchmark"},
        "model": {"dtype": options.dtype, "device": options.device},
        # Random weights read most texts alike: without a floor every edit is decoded.
        "method": {"mask": {"floor": 0.0}},
        "stages": {name: {"threads": options.threads} for name in STAGES},
    }
    for override in options.overrides:
        apply_override(tree, override)
    tree["model"]["path"] = model_folder(
        options.model, tree["model"]["dtype"], options.models or options.out.parent / "models"
    )
    config = parse_config(tree)
    return config, local_device(config.model.device)


def measure_curves(options: Options, config: Config, device: str) -> dict[str, Any]:
    """The report of sweeps: the cost of an edit along each."""
    loop = BareLoop(config, device)
    size = loop.model.info.size_for(config.model)
    rows = [
        row
        for name in options.sweep
        for row in run_sweep(name, loop, size, options.edits, options.repeats)
    ]
    return _circumstances(options, config, device, size) | {"points": rows}


def measure(options: Options, config: Config, device: str, start: float) -> dict[str, Any]:
    """The report: every loop ``repeats`` times, one after the other in turn.

    It is written after each run as far as it has come, and a loop is begun only if ``time_limit_s``
    leaves as long as its last run took: what is left out is named in ``unfinished``.

    Args:
        options, config, device: as of ``benchmark_config``.
        start: ``time.monotonic`` when the time limit began to run.
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
                print(f"{number}/{options.repeats} {name}: left out, no time", flush=True)
                continue
            if number == 1 and each.warm_up:
                each.run(each.warm_up)  # what happens once: lazy loading, compilation, memory
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
    """Where and how a report came to be."""
    tree = config.model_dump(mode="json", include={"model", "method", "stages", "run"})
    tree["model"]["path"] = options.model  # not where a random model was written
    return {
        "machine": describe_machine(device, options.threads),
        "options": asdict(options) | {"out": options.out.name, "models": None},
        "config": tree,
        "size": size,
    }


def _contestants(options: Options, loop: BareLoop, size: int) -> dict[str, Contestant]:
    """The loops by name: of each kind one for each workload; the most telling ones first.

    On a GPU a loop warms up on the very shapes that are timed: memory, kernels and, where the
    network is compiled, its code are made once for each shape.
    """
    found: dict[str, Contestant] = {}
    work = {name: draw_samples(options.edits // n, n, size) for name, n in WORKLOADS.items()}
    found |= _baselines(options, loop, size, compiled=False)
    for workload, samples in work.items():
        warm_up = samples if loop.device == "cuda" else samples[:1]
        found[f"bare_{workload}"] = Contestant(loop.run, samples, warm_up)
    if options.whole:
        for workload, samples in work.items():
            warm_up = [] if loop.device == "cuda" else samples[:1]  # the bare loop's did it
            found[f"whole_{workload}"] = Contestant(partial(run_whole, loop), samples, warm_up)
    if options.compiled:
        found |= _baselines(options, loop, size, compiled=True)
    return found


def _baselines(
    options: Options, loop: BareLoop, size: int, *, compiled: bool
) -> dict[str, Contestant]:
    """diffusers' loop for each workload; none for a family that it does not know."""
    config, info = loop.config, loop.model.info
    if info.family != BASELINE_FAMILY:
        print(f"no baseline: diffusers' DiffEdit does not know {info.family}", flush=True)
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
