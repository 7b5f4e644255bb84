"""Plots trade-off curves as a PNG: distance to the input against agreement with the text."""

from __future__ import annotations

import io
from collections.abc import Sequence

from pipeline.evaluation.curves import HIGHER_IS_NEARER, LOWER_IS_BETTER, Point, axes_of
from pipeline.evaluation.tables import TITLES


def plot_curves(points: Sequence[Point], title: str) -> bytes | None:
    """Draws one line per method; up and to the left is better.

    Args:
        points: of all methods.
        title: of the plot.

    Returns:
        A PNG; None if the points have no pair of figures in common.

    Raises:
        ImportError: matplotlib is not installed (``pip install 'overpaint[train]'``).
    """
    axes = axes_of(points)
    if axes is None:
        return None
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 5), dpi=120, layout="constrained")
    FigureCanvasAgg(figure)
    plot = figure.add_subplot()
    for number, method in enumerate(dict.fromkeys(point.method for point in points)):
        line = sorted((point for point in points if point.method == method), key=_ratio)
        xs, ys = ([point.figures[axis] for point in line] for axis in axes)
        plot.plot(xs, ys, marker="os^Dv"[number % 5], label=method)
        for point, x, y in zip(line, xs, ys, strict=True):
            plot.annotate(f"{point.ratio:g}", (x, y), (4, 4), textcoords="offset points", size=7)
    distance, agreement = axes
    if distance in HIGHER_IS_NEARER:
        plot.invert_xaxis()
    if agreement in LOWER_IS_BETTER:
        plot.invert_yaxis()
    plot.set_xlabel(f"distance to the input: {TITLES.get(distance, distance)}")
    plot.set_ylabel(f"agreement with the text: {TITLES.get(agreement, agreement)}")
    plot.set_title(title)
    plot.legend()
    plot.grid(alpha=0.3)
    sink = io.BytesIO()
    figure.savefig(sink)
    return sink.getvalue()


def _ratio(point: Point) -> float:
    return point.ratio
