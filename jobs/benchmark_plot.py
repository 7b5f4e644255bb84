"""The picture of a benchmark's report."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any


def plot_report(report: Mapping[str, Any], path: Path) -> bool:
    """Bars of edits per second with their spread, and where each stage's seconds go.

    Returns:
        Whether it was drawn: without matplotlib (the extra ``train``) a line says so.
    """
    try:
        import matplotlib.pyplot as plt
    except ImportError:
        print("no picture: pip install 'overpaint[train]' brings matplotlib")
        return False
    plt.switch_backend("agg")
    figure, (left, right) = plt.subplots(1, 2, figsize=(12, 4.5), layout="constrained")
    _plot_rates(left, report)
    _plot_stages(right, report)
    machine = report["machine"]
    place = machine.get("gpu") or f"{machine['cpu']}, {machine.get('threads')} threads"
    model = report["config"]["model"]
    figure.suptitle(
        f"{report['options']['model']}, {report['size']} px, {model['dtype']}: {place}", fontsize=11
    )
    figure.savefig(path, dpi=110)
    plt.close(figure)
    return True


def _plot_rates(axes: Any, report: Mapping[str, Any]) -> None:
    names = list(report["runs"])
    rates = [report["runs"][name]["edits_per_s"] for name in names]
    medians = [rate["median"] for rate in rates]
    below = [rate["median"] - rate["min"] for rate in rates]
    above = [rate["max"] - rate["median"] for rate in rates]
    colors = ["#999999" if name.startswith("baseline") else "#2a6fbb" for name in names]
    bars = axes.barh([name.replace("_", " ") for name in names], medians, color=colors)
    axes.errorbar(medians, range(len(names)), xerr=[below, above], fmt="none", ecolor="black")
    axes.bar_label(bars, [f" {median:.2f}" for median in medians], label_type="center")
    axes.invert_yaxis()
    axes.set_xlabel("edits per second: median, least and greatest")
    ratios = ", ".join(f"{name.replace('_', ' ')} {x:.2f}" for name, x in report["ratio"].items())
    axes.set_title(f"over the baseline: {ratios}", fontsize=9)


def _plot_stages(axes: Any, report: Mapping[str, Any]) -> None:
    names = [name for name, run in report["runs"].items() if "stages" in run]
    labels = [name.replace("_", " ") for name in names]
    start = [0.0] * len(names)
    for stage in report["runs"][names[0]]["stages"]:
        figures = [report["runs"][name]["stages"][stage] for name in names]
        runs = [report["runs"][name] for name in names]
        widths = [one["seconds"] / run["edits"] for one, run in zip(figures, runs, strict=True)]
        bars = axes.barh(labels, widths, left=start, label=stage)
        axes.bar_label(bars, [f"{one['utilisation']:.0%}" for one in figures], label_type="center")
        start = [before + width for before, width in zip(start, widths, strict=True)]
    axes.invert_yaxis()
    axes.set_xlabel("seconds an edit; in the bars: share of the measured matrix rate")
    axes.legend()
