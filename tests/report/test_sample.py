"""The sample of edits in a report keeps rare kinds and is deterministic."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from pipeline.report.sample import MIN_PER_STRATUM, extremes, stratified


def test_all_edits_are_chosen_within_the_limit() -> None:
    """If the limit allows, every index is chosen."""
    assert stratified(["a", "b", "a"], 3) == [0, 1, 2]


def test_rare_strata_are_kept_whole() -> None:
    """Seven failures among ten thousand edits are all chosen, and the limit holds."""
    strata = ["edited"] * 10_000
    for index in range(0, 7000, 1000):
        strata[index] = "failed"
    chosen = stratified(strata, 500)
    assert len(chosen) <= 500
    assert len(chosen) > 480
    assert Counter(strata[index] for index in chosen)["failed"] == 7


def test_a_stratum_is_sampled_evenly() -> None:
    """The indices of one stratum are evenly spaced from its start to its end."""
    chosen = stratified(["edited"] * 1000, 10)
    assert chosen == list(range(50, 1000, 100))


def test_large_strata_share_what_is_left_in_proportion() -> None:
    """After the minimum of each stratum, two strata of 9:1 share the rest by nine to one."""
    chosen = stratified(["a"] * 9000 + ["b"] * 1000, 1100)
    counts = Counter("a" if index < 9000 else "b" for index in chosen)
    assert counts["b"] - MIN_PER_STRATUM == pytest.approx(
        (counts["a"] - MIN_PER_STRATUM) / 9.4, abs=2
    )


def test_limit_holds_with_more_strata_than_rows() -> None:
    """With a hundred strata and a limit of ten, some strata are left out."""
    assert len(stratified([f"kind {number}" for number in range(100)], 10)) <= 10


def test_extremes_are_always_chosen() -> None:
    """The lowest and highest values of a score are always chosen; NaN is ignored."""
    values = np.arange(1000.0)
    values[:5] = np.nan
    found = extremes([values], number=2)
    assert found == {5, 6, 998, 999}
    assert found <= set(stratified(["edited"] * 1000, 20, found))
