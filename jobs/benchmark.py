"""``overpaint benchmark``: the loops beside diffusers' own, interleaved, as JSON and a picture."""

from __future__ import annotations

import json
import statistics
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

from jobs.benchmark_baseline import DiffusersLoop
from jobs.benchmark_loops import BareLoop, Timing, model_flops, run_whole, stage_flops
from jobs.benchmark_machine import describe_machine, matrix_rate
from jobs.benchmark_models import model_folder
from jobs.benchmark_plot import plot_curves, plot_report
from jobs.benchmark_sweep import SWEEPS, run_sweep
from jobs.benchmark_work import Sample, draw_samples
from jobs.cluster import device_of
from pipeline.models.probe import probe_model
from pipeline.words.config import STAGES, Config
from pipeline.words.config_file import ConfigError, apply_override, parse_config

WORKLOADS = {"one_edit": 1, "four_edits": 4}  # edits of each picture


@dataclass(frozen=True)
class Contestant:
    """A loop, what it is timed on, and what it runs once before."""

    run: Callable[[list[Sample]], Timing]
    samples: list[Sample]
    warm_up: list[Sample]


@dataclass(frozen=True)
class Options:
    """What to measure.

    Attributes:
        model: a folder, a hub id, "bundled", or "random:sd15".
        overrides: key=value of the config, as of ``overpaint edit``; the paper's settings else.
        device: auto, cpu or cuda.
        dtype: of the network, in both Overpaint and the baseline.
        threads: of torch on a CPU, in both.
        edits: of a run of the bare loop; a multiple of 4.
        baseline_edits: of a run of the baseline, which takes each alone; a multiple of 4.
        repeats: of every loop, interleaved.
        whole: measure the whole job in one process as well.
        compiled: torch.compile for a further baseline.
        sweep: names of ``SWEEPS``: curves of the cost, instead of the loops beside the baseline.
        out: JSON and PNG are written to this path with .json and .png.
    """

    model: str
    overrides: tuple[str, ...]
    device: str
    dtype: str
    threads: int
    edits: int
    baseline_edits: int
    repeats: int
    whole: bool
    compiled: bool
    sweep: tuple[str, ...]
    out: Path


def benchmark(options: Options) -> int:
    """Measures, writes the report and its picture, prints the figures."""
    config, device = benchmark_config(options)
    report = (
        measure_curves(options, config, device)
        if options.sweep
        else measure(options, config, device)
    )
    path = options.out.with_suffix(".json")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(report, indent=2) + "\n")
    draw = plot_curves if options.sweep else plot_report
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
        options.model, tree["model"]["dtype"], options.out.parent / "models"
    )
    config = parse_config(tree)
    return config, device_of(config)


def measure_curves(options: Options, config: Config, device: str) -> dict[str, Any]:
    """The report of sweeps: the cost of an edit along each."""
    size = probe_model(config.model).size_for(config.model)
    loop = BareLoop(config, device)
    rows = [
        row
        for name in options.sweep
        for row in run_sweep(name, loop, size, options.edits, options.repeats)
    ]
    return _circumstances(options, config, device, size) | {"points": rows}


def measure(options: Options, config: Config, device: str) -> dict[str, Any]:
    """The report: every loop ``repeats`` times, one after the other in turn."""
    info = probe_model(config.model)
    size = info.size_for(config.model)
    loop = BareLoop(config, device)
    contestants = _contestants(options, loop, size)
    for each in contestants.values():
        each.run(each.warm_up)  # what happens once: lazy loading, compilation, memory
    timings: dict[str, list[Timing]] = {name: [] for name in contestants}
    for number in range(1, options.repeats + 1):
        for name, each in contestants.items():
            timings[name].append(each.run(each.samples))
            rate = timings[name][-1].edits_per_s
            print(f"{number}/{options.repeats} {name}: {rate:.3f} edits/s", flush=True)
    rate = matrix_rate(device, loop.model.dtype)
    flops = model_flops(loop.model, size)
    runs = {name: _summary(results) for name, results in timings.items()}
    for name, edits in WORKLOADS.items():
        runs[f"bare_{name}"]["stages"] = _stages(
            timings[f"bare_{name}"], flops, rate, options.edits // edits
        )
    return _circumstances(options, config, device, size) | {
        "matrix_flop_per_s": rate,
        "flop": flops,
        "runs": runs,
        "ratio": _ratios(runs),
    }


def _circumstances(options: Options, config: Config, device: str, size: int) -> dict[str, Any]:
    """Where and how a report came to be."""
    tree = config.model_dump(mode="json", include={"model", "method", "stages", "run"})
    tree["model"]["path"] = options.model  # not where a random model was written
    return {
        "machine": describe_machine(device, options.threads),
        "options": asdict(options) | {"out": options.out.name},
        "config": tree,
        "size": size,
    }


def _contestants(options: Options, loop: BareLoop, size: int) -> dict[str, Contestant]:
    """The loops by name: of each kind one for each workload."""
    found: dict[str, Contestant] = {}
    config = loop.config
    theirs = {"baseline": False} | ({"baseline_compiled": True} if options.compiled else {})
    for name, compiled in theirs.items():
        baseline = DiffusersLoop(
            loop.model.info.folder, loop.device, config.model.dtype, config.method, compiled
        )
        for workload, edits in WORKLOADS.items():
            samples = draw_samples(options.baseline_edits // edits, edits, size)
            found[f"{name}_{workload}"] = Contestant(
                baseline.run, samples, draw_samples(1, 1, size)
            )
    for workload, edits in WORKLOADS.items():
        samples = draw_samples(options.edits // edits, edits, size)
        found[f"bare_{workload}"] = Contestant(loop.run, samples, samples[:1])
        if options.whole:
            found[f"whole_{workload}"] = Contestant(partial(run_whole, loop), samples, samples[:1])
    return found


def _summary(timings: list[Timing]) -> dict[str, Any]:
    """Of one loop: every run's seconds, and the rate's median and spread."""
    rates = [timing.edits_per_s for timing in timings]
    last = timings[-1]
    return {
        "edits": last.edits,
        "counts": dict(last.counts),
        "seconds": [round(timing.seconds, 4) for timing in timings],
        "cpu_seconds": [round(timing.cpu_seconds, 4) for timing in timings],
        "edits_per_s": spread(rates),
        "memory_peak_bytes": last.memory_peak_bytes,
    }


def _stages(
    timings: list[Timing], flops: Mapping[str, int], rate: float, num_pictures: int
) -> dict[str, Any]:
    """Seconds, evaluations, FLOPs and utilisation of each stage of a bare loop."""
    worth = stage_flops(timings[-1], flops, num_pictures)
    found: dict[str, Any] = {}
    for name, flop in worth.items():
        seconds = statistics.median(timing.stage_seconds[name] for timing in timings)
        found[name] = {
            "seconds": round(seconds, 4),
            "evals": timings[-1].evals[name],
            "flop": flop,
            "utilisation": round(flop / seconds / rate, 4),
        }
    return found


def spread(values: list[float]) -> dict[str, float]:
    """Median, least and greatest."""
    return {"median": statistics.median(values), "min": min(values), "max": max(values)}


def _ratios(runs: Mapping[str, Any]) -> dict[str, float]:
    """Edits per second of the bare loop over the baseline's, by medians."""
    ratios: dict[str, float] = {}
    for suffix in ("", "_compiled"):
        for workload in WORKLOADS:
            theirs = runs.get(f"baseline{suffix}_{workload}")
            if theirs:
                ours = runs[f"bare_{workload}"]["edits_per_s"]["median"]
                ratios[workload + suffix] = round(ours / theirs["edits_per_s"]["median"], 3)
    return ratios


def print_report(report: Mapping[str, Any]) -> None:
    """The figures as a few lines."""
    for name, run in report["runs"].items():
        rate = run["edits_per_s"]
        text = f"{name:28} {rate['median']:8.3f} edits/s  [{rate['min']:.3f}, {rate['max']:.3f}]"
        for stage, figures in run.get("stages", {}).items():
            text += f"  {stage} {figures['seconds']:.2f} s ({figures['utilisation']:.0%})"
        print(text)
    for name, ratio in report["ratio"].items():
        print(f"ratio.{name:22} {ratio:8.3f}")
