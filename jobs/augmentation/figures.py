"""The figures of each arm: accuracy, and the share of the gap that it closes, with intervals.

An arm is a way to make a training set. All classifiers are trained for the same number of steps
and tested on the same unbiased, held-out scenes. The gap is between the biased and the unbiased
set.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

BIASED, UNBIASED = "biased", "unbiased"
# Two-sided 95 % quantiles of Student's t distribution, for 1 to 9 degrees of freedom.
T_975 = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262)


def interval(values: Sequence[float]) -> dict[str, float]:
    """The mean and its 95 % interval, by Student's t.

    Args:
        values: 2 to 10 values.
    """
    mean = float(np.mean(values))
    spread = float(np.std(values, ddof=1)) / len(values) ** 0.5
    half = T_975[len(values) - 2] * spread
    return {"mean": mean, "low": mean - half, "high": mean + half}


def gap_closed(
    arm: Sequence[float], biased: Sequence[float], unbiased: Sequence[float]
) -> dict[str, Any] | None:
    """(arm - biased) / (unbiased - biased) for each seed, with the interval of the mean.

    Args:
        arm: accuracy by seed.
        biased: same, for the biased set.
        unbiased: same, for the unbiased set.

    Returns:
        JSON-able. None if for some seed the biased classifier is as good as the unbiased one: then
        there is no gap.
    """
    gaps = [b - a for a, b in zip(biased, unbiased, strict=True)]
    if min(gaps) <= 0:
        return None
    each = [(value - a) / gap for value, a, gap in zip(arm, biased, gaps, strict=True)]
    return interval(each) | {"each": each}


def summarise(accuracies: Mapping[str, Sequence[float]]) -> dict[str, dict[str, Any]]:
    """Accuracy and closed share of the gap for each arm, with intervals."""
    found = {}
    for name, values in accuracies.items():
        of_arm: dict[str, Any] = {"accuracy": interval(values) | {"each": list(values)}}
        if name not in (BIASED, UNBIASED):
            ends = accuracies[BIASED], accuracies[UNBIASED]
            of_arm["gap_closed"] = gap_closed(values, *ends)
        found[name] = of_arm
    return found


def table(arms: Mapping[str, Mapping[str, Any]]) -> str:
    """The arms as a Markdown table, in percent."""
    lines = [
        "| training set | images | label is the partner's | accuracy | gap closed |",
        "|---|---|---|---|---|",
    ]
    for name, arm in arms.items():
        closed = arm.get("gap_closed")
        cells = [
            str(arm["pictures"]),
            f"{100 * arm['with_partner']:.0f} %",
            _percent(arm["accuracy"]),
            "" if closed is None else _percent(closed),
        ]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _percent(value: Mapping[str, float]) -> str:
    mean, low, high = (f"{100 * value[name]:.1f}" for name in ("mean", "low", "high"))
    return f"{mean} ({low} to {high})"
