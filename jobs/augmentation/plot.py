"""Plots the arms as a PNG: accuracy by seed, mean and interval."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jobs.augmentation.figures import BIASED, UNBIASED


def plot_arms(arms: Mapping[str, Mapping[str, Any]], title: str, path: Path) -> None:
    """Draws one line per arm, the first on top, and the share of the gap that it closes.

    Raises:
        ImportError: matplotlib is not installed (``pip install 'overpaint[train]'``).
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 0.55 * len(arms) + 1.6), dpi=120, layout="constrained")
    FigureCanvasAgg(figure)
    plot = figure.add_subplot()
    places = range(len(arms))
    middle = 50 * sum(arms[name]["accuracy"]["mean"] for name in (BIASED, UNBIASED))
    for place, arm in zip(places, arms.values(), strict=True):
        accuracy = arm["accuracy"]
        mean, low, high = (100 * accuracy[name] for name in ("mean", "low", "high"))
        each = [100 * value for value in accuracy["each"]]
        plot.scatter(each, [place] * len(each), s=14, color="0.6", zorder=2)
        plot.errorbar(mean, place, xerr=[[mean - low], [high - mean]], fmt="o", capsize=4, zorder=3)
        closed = arm.get("gap_closed")
        if closed is not None:
            shares = tuple(100 * closed[name] for name in ("mean", "low", "high"))
            text = "{:.0f} % of the gap ({:.0f} to {:.0f})".format(*shares)
            side = "right" if mean > middle else "left"  # keeps the text within the axes
            plot.annotate(text, (mean, place), (0, 9), textcoords="offset points", ha=side, size=8)
    for name in (BIASED, UNBIASED):
        plot.axvline(100 * arms[name]["accuracy"]["mean"], color="0.7", ls=":", zorder=1)
    plot.set_yticks(list(places), list(arms))
    plot.set_ylim(len(arms) - 0.4, -0.8)
    plot.set_xlabel("accuracy on unbiased held-out scenes, %")
    plot.set_title(title, size=10)
    plot.margins(x=0.15)
    figure.savefig(path)
