"""The benchmark of the start-up, without its runs."""

from __future__ import annotations

import pytest

from infra.benchmarks.startup import medians, until_started


def test_the_ratio_is_that_of_each_turn() -> None:
    """A turn on a busy machine is slow in all of its parts."""
    turns = [
        {"ray_s": 4.0, "load_s": 6.0, "first_part_s": 20.0, "other_first_part_s": 30.0},
        {"ray_s": 40.0, "load_s": 60.0, "first_part_s": 150.0, "other_first_part_s": 300.0},
        {"ray_s": 5.0, "load_s": 5.0, "first_part_s": 10.0, "other_first_part_s": 40.0},
    ]
    found = medians(turns)
    assert (found["ratio"], found["other_ratio"]) == (1.5, 3.0)
    assert found["first_part_s"] == 20.0
    del turns[0]["other_first_part_s"]
    assert "other_ratio" not in medians(turns[:1])


def test_a_process_is_timed_until_it_says_so() -> None:
    """One that dies before is an error, not a time."""
    assert 0 < until_started("print('started', flush=True)")["_s"] < 60
    with pytest.raises(RuntimeError, match="ended with 3"):
        until_started("raise SystemExit(3)")
