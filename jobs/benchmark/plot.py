"""Draws the report of a benchmark."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

AXES = {
    "batch": "rows of a micro-batch",
    "size": "pixels of the image",
    "steps": "steps of the schedule (r = 0.8)",
    "edits": "edits of an image",
    "region": "share of the image inside the mask",
}


def plot_report(report: Mapping[str, Any], path: Path) -> bool:
    """Draws bars of edits per second with their spread, and the seconds of each stage.

    Returns:
        Whether it was drawn: matplotlib (the extra ``train``) may be missing.
    """
    plt = _pyplot()
    if plt is None:
        return False
    figure, (left, right) = plt.subplots(1, 2, figsize=(12, 4.5), layout="constrained")
    _plot_rates(left, report)
    _plot_stages(right, report)
    _finish(plt, figure, report, path)
    return True


def plot_curves(report: Mapping[str, Any], path: Path) -> bool:
    """Draws seconds per edit for each sweep, with linear growth for comparison.

    Returns:
        Whether it was drawn, as ``plot_report``.
    """
    plt = _pyplot()
    if plt is None:
        return False
    names = list(dict.fromkeys(point["sweep"] for point in report["points"]))
    figure, every = plt.subplots(
        1, len(names), figsize=(4.2 * len(names), 4), layout="constrained", squeeze=False
    )
    for axes, name in zip(every[0], names, strict=True):
        points = [point for point in report["points"] if point["sweep"] == name]
        _plot_curve(axes, name, points, report["machine"]["device"])
    _finish(plt, figure, report, path)
    return True


def _plot_curve(axes: Any, name: str, points: list[dict[str, Any]], device: str) -> None:
    # on a CPU, CPU seconds: other load on the machine hardly changes them
    key = "cpu_s_per_edit" if device == "cpu" else "s_per_edit"
    label = "CPU seconds per edit, of all threads" if device == "cpu" else "seconds per edit"
    if name == "region":
        key, label = "decode_s_per_edit", "decode stage, seconds per edit"
    for series in dict.fromkeys(point["series"] for point in points):
        chosen = [point for point in points if point["series"] == series]
        xs, ys = [point["x"] for point in chosen], [point[key] for point in chosen]
        axes.plot(xs, ys, marker="o", label="measured" if series == "full" else series)
        if name in ("size", "steps"):
            axes.plot(xs, [ys[0] * x / xs[0] for x in xs], "--", color="#999999", label="linear")
    if name == "batch":
        axes.set_xscale("log", base=2)
    axes.set_ylim(bottom=0)
    axes.set_xlabel(AXES[name])
    axes.set_ylabel(label)
    axes.legend()


def _pyplot() -> Any:
    """matplotlib without a display; if it is missing, prints how to install it, returns None."""
    try:
        import matplotlib.pyplot as plt
    except ImportError:
        print("no plot: matplotlib is not installed (pip install 'overpaint[train]')")
        return None
    plt.switch_backend("agg")
    return plt


def _finish(plt: Any, figure: Any, report: Mapping[str, Any], path: Path) -> None:
    machine, model = report["machine"], report["config"]["model"]
    place = machine.get("gpu") or f"{machine['cpu']}, {machine.get('threads')} threads"
    dtypes, other = model["dtype"], report["options"]["baseline_dtype"]
    if other not in (None, dtypes):
        dtypes += f" (baseline {other})"
    figure.suptitle(
        f"{report['options']['model']}, {report['size']} px, {dtypes}: {place}", fontsize=11
    )
    figure.savefig(path, dpi=110)
    plt.close(figure)


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
    axes.set_xlabel("edits per second: median, minimum and maximum")
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
    axes.set_xlabel("seconds per edit; in the bars: share of the measured matrix rate")
    axes.legend()
