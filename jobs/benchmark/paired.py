"""Compares two ways of editing the same images, with a confidence interval for paired data."""

from __future__ import annotations

import math
from collections.abc import Sequence

Z_95 = 1.959964  # of the normal distribution, two-sided


def paired_difference(pairs: Sequence[tuple[float, float]]) -> dict[str, float]:
    """The difference of two success rates that were measured on the same edits.

    Args:
        pairs: for each edit, whether it succeeded (1 or 0) under the setting and under the
            reference.

    Returns:
        edits; gained and lost (edits that succeeded under only the setting, or only the
        reference); difference, low and high: the difference of the rates and its 95 % confidence
        interval, in percentage points.

    Source: Agresti and Min, Statistics in Medicine 24 (2005): Wald's interval for paired
        proportions, with half an edit added to each of the four cells, so that the interval does
        not vanish if no pair differs.
    """
    gained = sum(ours > theirs for ours, theirs in pairs)
    lost = sum(ours < theirs for ours, theirs in pairs)
    total = len(pairs) + 2.0
    middle = (gained - lost) / total
    spread = math.sqrt(gained + lost + 1.0 - (gained - lost) ** 2 / total) / total
    return {
        "edits": len(pairs),
        "gained": gained,
        "lost": lost,
        "difference": 100.0 * (gained - lost) / len(pairs),
        "low": 100.0 * (middle - Z_95 * spread),
        "high": 100.0 * (middle + Z_95 * spread),
    }
