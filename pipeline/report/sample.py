"""Which edits are shown where not all can be: a stratified sample that nothing random decides."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Hashable, Sequence

import numpy as np

LEAST = 50  # of a stratum, before the rest is shared in proportion
NUM_EXTREMES = 10  # lowest and highest of every score, which are always shown


def stratified(strata: Sequence[Hashable], limit: int, always: Collection[int] = ()) -> list[int]:
    """At most ``limit`` places of a sequence, so that no stratum is left out.

    Every stratum gives ``LEAST`` (or all, or its share of the limit where strata are many), the
    rest is shared in proportion to what each has left; within a stratum places are evenly spaced.

    Args:
        strata: the stratum of each place.
        limit: how many places at most.
        always: places that are taken first, as far as half of the limit goes.

    Returns:
        Places in ascending order; all of them where the limit allows.
    """
    if len(strata) <= limit:
        return list(range(len(strata)))
    first = sorted(set(always))
    first = [first[place] for place in _even(len(first), limit // 2)]
    left: dict[Hashable, list[int]] = defaultdict(list)
    taken = set(first)
    for place, stratum in enumerate(strata):
        if place not in taken:
            left[stratum].append(place)
    counts = _shared([len(places) for places in left.values()], limit - len(first))
    for places, count in zip(left.values(), counts, strict=True):
        first += [places[number] for number in _even(len(places), count)]
    return sorted(first)


def extremes(scores: Sequence[np.ndarray], number: int = NUM_EXTREMES) -> set[int]:
    """The places of the lowest and highest values of each score; NaN is no value."""
    found: set[int] = set()
    for values in scores:
        finite = np.flatnonzero(np.isfinite(values))
        order = finite[np.argsort(values[finite], kind="stable")]
        found |= {int(place) for place in (*order[:number], *order[-number:])}
    return found


def _shared(sizes: list[int], limit: int) -> list[int]:
    """How many of each size, their sum at most the limit and no count above its size."""
    least = min(LEAST, limit // len(sizes)) if sizes else 0
    counts = [min(size, least) for size in sizes]
    left = sum(sizes) - sum(counts)
    rest = limit - sum(counts)
    if left <= 0 or rest <= 0:
        return counts
    share = min(1.0, rest / left)
    return [count + int((size - count) * share) for size, count in zip(sizes, counts, strict=True)]


def _even(size: int, count: int) -> list[int]:
    """``count`` of ``size`` places, evenly spaced, or all."""
    if count >= size:
        return list(range(size))
    return [int((2 * number + 1) * size / (2 * count)) for number in range(count)]
