"""What is shown where not everything can be: nothing rare is lost, nothing random decides."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from pipeline.report.sample import MIN_PER_STRATUM, extremes, stratified


def test_a_small_output_is_shown_whole() -> None:
    """Within the limit every place is taken."""
    assert stratified(["a", "b", "a"], 3) == [0, 1, 2]


def test_rare_strata_are_kept_whole() -> None:
    """Seven failures among ten thousand edits are all there; the limit holds."""
    strata = ["edited"] * 10_000
    for place in range(0, 7000, 1000):
        strata[place] = "failed"
    chosen = stratified(strata, 500)
    assert len(chosen) <= 500
    assert len(chosen) > 480
    assert Counter(strata[place] for place in chosen)["failed"] == 7


def test_a_stratum_is_spread_over_the_whole_output() -> None:
    """Of one stratum the places are evenly spaced, from its begin to its end."""
    chosen = stratified(["edited"] * 1000, 10)
    assert chosen == list(range(50, 1000, 100))


def test_large_strata_share_what_is_left_in_proportion() -> None:
    """After the least that each gets, two strata of 9:1 share the rest by nine to one."""
    chosen = stratified(["a"] * 9000 + ["b"] * 1000, 1100)
    counts = Counter("a" if place < 9000 else "b" for place in chosen)
    assert counts["b"] - MIN_PER_STRATUM == pytest.approx(
        (counts["a"] - MIN_PER_STRATUM) / 9.4, abs=2
    )


def test_more_strata_than_room_leave_out_some_but_keep_the_limit() -> None:
    """A hundred kinds of failure in a page of ten rows is no error."""
    assert len(stratified([f"kind {number}" for number in range(100)], 10)) <= 10


def test_extremes_are_taken_first() -> None:
    """The lowest and highest values of a score are shown however rare they are; NaN is none."""
    values = np.arange(1000.0)
    values[:5] = np.nan
    found = extremes([values], number=2)
    assert found == {5, 6, 998, 999}
    assert found <= set(stratified(["edited"] * 1000, 20, found))
