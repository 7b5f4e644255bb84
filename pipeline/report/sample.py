"""Chooses the edits to show if there are too many: a stratified, deterministic sample."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Hashable, Sequence

import numpy as np

MIN_PER_STRATUM = 50  # taken of each stratum, before the rest is shared in proportion
NUM_EXTREMES = 10  # lowest and highest values of every score, which are always shown


def stratified(strata: Sequence[Hashable], limit: int, always: Collection[int] = ()) -> list[int]:
    """Chooses at most ``limit`` indices of a sequence, so that rare strata are kept.

    Each stratum gives ``MIN_PER_STRATUM`` indices (or all of them; or an equal share of the limit
    if there are many strata). The rest of the limit is shared in proportion to what each stratum
    has left. Indices within a stratum are evenly spaced.

    Args:
        strata: the stratum of each index.
        limit: the largest number of indices.
        always: indices that are chosen first, for at most half of the limit.

    Returns:
        Indices in ascending order; all of them if the limit allows.
    """
    if len(strata) <= limit:
        return list(range(len(strata)))
    chosen = sorted(set(always))
    chosen = [chosen[index] for index in _even(len(chosen), limit // 2)]
    remaining: dict[Hashable, list[int]] = defaultdict(list)
    taken = set(chosen)
    for index, stratum in enumerate(strata):
        if index not in taken:
            remaining[stratum].append(index)
    counts = _shared([len(indices) for indices in remaining.values()], limit - len(chosen))
    for indices, count in zip(remaining.values(), counts, strict=True):
        chosen += [indices[number] for number in _even(len(indices), count)]
    return sorted(chosen)


def extremes(scores: Sequence[np.ndarray], number: int = NUM_EXTREMES) -> set[int]:
    """The indices of the lowest and highest finite values of each score."""
    found: set[int] = set()
    for values in scores:
        finite = np.flatnonzero(np.isfinite(values))
        order = finite[np.argsort(values[finite], kind="stable")]
        found |= {int(index) for index in (*order[:number], *order[-number:])}
    return found


def _shared(sizes: list[int], limit: int) -> list[int]:
    """How many to take of each size; their sum is at most the limit, and none exceeds its size."""
    minimum = min(MIN_PER_STRATUM, limit // len(sizes)) if sizes else 0
    counts = [min(size, minimum) for size in sizes]
    num_left = sum(sizes) - sum(counts)
    rest = limit - sum(counts)
    if num_left <= 0 or rest <= 0:
        return counts
    share = min(1.0, rest / num_left)
    return [count + int((size - count) * share) for size, count in zip(sizes, counts, strict=True)]


def _even(size: int, count: int) -> list[int]:
    """``count`` evenly spaced indices below ``size``, or all of them."""
    if count >= size:
        return list(range(size))
    return [int((2 * number + 1) * size / (2 * count)) for number in range(count)]
