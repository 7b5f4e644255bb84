"""How many shards a wave takes."""

from __future__ import annotations

from typing import Any

import pytest

from pipeline.config.config import Config
from pipeline.config.load import parse_config
from pipeline.plan.plan import ShardWork
from pipeline.sizing.waves import MAX_PARTS, MAX_UNKNOWN_SHARDS, Pace, next_wave, num_waves
from pipeline.storage.shards import InputShard


def config(**run: Any) -> Config:
    return parse_config({"input": {"shards": "a"}, "output": {"path": "b"}, "run": run})


def shards(number: int, size: int = 1000, edits: int | None = None) -> list[ShardWork]:
    """Shards of some bytes; with ``edits``, as many of each, which ``input.limit`` counted."""
    inputs = [InputShard(f"{i}.tar", f"{i}", size) for i in range(number)]
    return [ShardWork(shard, max_edits=edits) for shard in inputs]


def sizes(work: list[ShardWork], pace: Pace, **run: Any) -> list[int]:
    """The shards in each wave of a run, which are as many as it is said to have."""
    found: list[int] = []
    expected = num_waves(work, config(**run), pace)
    while wave := next_wave(work, config(**run), pace):
        assert wave == work[: len(wave)]
        found.append(len(wave))
        work = work[len(wave) :]
    assert len(found) == expected
    return found


def test_a_number_is_kept() -> None:
    """Whatever is known of the run."""
    pace = Pace(edits_per_s=1.0, edits_per_byte=1.0)
    assert sizes(shards(10), pace, shards_per_wave=4) == [4, 4, 2]


def test_a_wave_is_half_an_hour_of_work() -> None:
    """100 shards of 1000 edits at 10 edits/s are 10,000 s: six waves, the last no short one."""
    found = sizes(shards(100), Pace(edits_per_s=10.0, edits_per_byte=1.0))
    assert len(found) == 6
    assert min(found) >= 15
    assert max(found) <= 18


def test_a_run_of_less_than_one_and_a_half_waves_is_one_wave() -> None:
    """A second one would cost a start of all actors for a few minutes of work."""
    pace = Pace(edits_per_s=1.0, edits_per_byte=1.0)
    assert sizes(shards(2), pace) == [2]
    assert sizes(shards(3), pace) == [2, 1]


def test_a_wave_lasts_fifty_starts_of_an_actor() -> None:
    """Of 200 s each: 10,000 s, which is all of the run."""
    assert sizes(shards(100), Pace(10.0, edits_per_byte=1.0, start_s=200.0)) == [100]


def test_a_wave_has_as_many_parts_as_the_driver_can_hold() -> None:
    """At a rate that would do all in minutes, and where no rate is known."""
    each = 64 * 100  # a hundred parts
    for rate in (1e9, None):
        found = sizes(shards(800, edits=each), Pace(rate))
        assert found == [MAX_PARTS // 100] * 4
    assert sizes(shards(3 * MAX_PARTS, edits=1), Pace()) == [MAX_PARTS] * 3  # a part each


def test_shards_of_unknown_size_are_counted() -> None:
    """As many as a wave had by default before."""
    assert sizes(shards(2 * MAX_UNKNOWN_SHARDS), Pace(5.0)) == [MAX_UNKNOWN_SHARDS] * 2


def test_a_shard_longer_than_a_wave_is_one() -> None:
    """A shard is read by one task, so no wave can begin within it."""
    assert sizes(shards(3, edits=1_000_000), Pace(1.0)) == [1, 1, 1]


def test_staged_parts_are_no_work() -> None:
    """Of a shard with all but one part staged, one is left: four such shards are a short wave."""
    staged = frozenset(("0" * 12, 100, index) for index in range(99))
    work = [ShardWork(item.shard, staged, 6400) for item in shards(4)]
    pace = Pace(1.0)
    assert sizes(work, pace) == [4]
    assert len(sizes(shards(4, edits=6400), pace)) == 4


@pytest.mark.parametrize("value", ["0", "none", "-1"])
def test_other_values_are_refused(value: str) -> None:
    """With the key and what is allowed."""
    with pytest.raises(Exception, match=r"run\.shards_per_wave"):
        config(shards_per_wave=value)
