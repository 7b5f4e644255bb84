"""Turns timings into medians, spreads, utilization and ratios; writes and prints them."""

from __future__ import annotations

import json
import statistics
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jobs.benchmark.loops import Timing, stage_flops

WORKLOADS = {"one_edit": 1, "four_edits": 4}  # edits per image


def write_report(report: Mapping[str, Any], out: Path) -> None:
    """Writes the report as JSON; the file is replaced atomically."""
    path = out.with_suffix(".json")
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(".json.tmp")
    temporary.write_text(json.dumps(report, indent=2) + "\n")
    temporary.replace(path)


def runs_of(
    timings: Mapping[str, list[Timing]], flops: Mapping[str, int], rate: float, edits: int
) -> dict[str, Any]:
    """The summary of each loop that has run."""
    runs = {name: _summary(results) for name, results in timings.items() if results}
    for workload, each in WORKLOADS.items():
        name = f"bare_{workload}"
        if name in runs:
            runs[name]["stages"] = _stages(timings[name], flops, rate, edits // each)
    return runs


def _summary(timings: list[Timing]) -> dict[str, Any]:
    """The summary of one loop: the seconds of every run, and the rate's median and spread."""
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
    timings: list[Timing], flops: Mapping[str, int], rate: float, num_images: int
) -> dict[str, Any]:
    """Seconds, evaluations, FLOPs and utilization of each stage of a bare loop."""
    found: dict[str, Any] = {}
    for name, flop in stage_flops(timings[-1], flops, num_images).items():
        seconds = statistics.median(timing.stage_seconds[name] for timing in timings)
        found[name] = {
            "seconds": round(seconds, 4),
            "evals": timings[-1].evals[name],
            "flop": flop,
            "utilisation": round(flop / seconds / rate, 4),
        }
    return found


def spread(values: list[float]) -> dict[str, float]:
    """Median, minimum and maximum."""
    return {"median": statistics.median(values), "min": min(values), "max": max(values)}


def ratios_of(runs: Mapping[str, Any]) -> dict[str, float]:
    """Median edits per second of the bare loop, divided by the baseline's."""
    ratios: dict[str, float] = {}
    for suffix in ("", "_compiled"):
        for workload in WORKLOADS:
            theirs, ours = runs.get(f"baseline{suffix}_{workload}"), runs.get(f"bare_{workload}")
            if theirs and ours:
                rates = (run["edits_per_s"]["median"] for run in (ours, theirs))
                ratios[workload + suffix] = round(next(rates) / next(rates), 3)
    return ratios


def print_report(report: Mapping[str, Any]) -> None:
    """Prints the figures, one line for each loop and ratio."""
    for name, run in report["runs"].items():
        rate = run["edits_per_s"]
        text = f"{name:28} {rate['median']:8.3f} edits/s  [{rate['min']:.3f}, {rate['max']:.3f}]"
        for stage, figures in run.get("stages", {}).items():
            text += f"  {stage} {figures['seconds']:.2f} s ({figures['utilisation']:.0%})"
        print(text)
    for name, ratio in report["ratio"].items():
        print(f"ratio.{name:22} {ratio:8.3f}")
