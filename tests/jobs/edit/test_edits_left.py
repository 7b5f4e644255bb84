"""The time left is that of the edits left, whatever the shards' sizes."""

from __future__ import annotations

import time
from typing import Any, cast

import pytest

from jobs.edit.edits_left import EditsLeft
from jobs.edit.progress import RunProgress
from pipeline.config.load import parse_config
from pipeline.models.model_info import ModelInfo
from pipeline.plan.plan import Plan, ShardWork
from pipeline.records.staged import PartResult
from pipeline.storage.shards import InputShard

BYTES = 1000  # of an edit
# Six parts of this content, and one of another.
STAGED = {("g", 10, index) for index in range(6)} | {("h", 10, 7)}


def plan_of(edits: dict[str, int], *, part_size: int = 10, **work: dict[str, Any]) -> Plan:
    """A plan of shards with so many edits each; ``work`` has further fields of a shard's work."""
    tree = {"input": {"shards": "x"}, "output": {"path": "y"}, "run": {"part_size": part_size}}
    model = ModelInfo(cast(Any, None), "", "stable-diffusion", "epsilon", 512, 8, 4)
    shards = {name: InputShard(f"{name}.tar", name, BYTES * n) for name, n in edits.items()}
    todo = [ShardWork(shard, **work.get(name, {})) for name, shard in shards.items()]
    return Plan(parse_config(tree), "cpu", model, "", {}, todo, [], shards)


def part(shard: str, num_parts: int, edits: int = 10, **more: Any) -> PartResult:
    return PartResult(shard, 0, {"edited": edits}, part_id=("g", num_parts, 0), **more)


def test_shards_that_were_not_seen_count_by_their_bytes() -> None:
    """One large shard among small ones: counting shards would say that half is done."""
    left = EditsLeft(plan_of({"small": 10, "large": 1000}))
    assert left.estimate() is None
    left.update(part("small", 1))
    assert left.estimate() == 1000
    left.update(part("large", 100))
    assert left.estimate() == 990


def test_what_was_staged_before_is_not_left() -> None:
    """A resumed shard has fewer parts to come."""
    left = EditsLeft(plan_of({"a": 100}, a={"staged": frozenset(STAGED)}))
    left.update(part("a", 10))
    assert left.estimate() == 30


def test_with_a_limit_the_edits_are_known_from_the_start() -> None:
    """``input.limit`` has counted them."""
    left = EditsLeft(plan_of({"a": 100, "b": 100}, a={"max_edits": 100}, b={"max_edits": 20}))
    assert left.estimate() == 120
    left.update(part("a", 10))
    assert left.estimate() == 110


def test_nothing_is_left_at_the_end() -> None:
    """Also where parts are of unequal sizes."""
    left = EditsLeft(plan_of({"a": 12, "b": 3}))
    for result in (part("a", 2), part("a", 2, 2), part("b", 1, 3)):
        left.update(result)
    assert left.estimate() == 0


def test_the_line_says_the_time_of_the_edits_left(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ten edits took 10 s and 1,000 are left; after the start-up its time no longer counts."""
    clock = [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: clock[0])
    with RunProgress(2, 0, 1e9, EditsLeft(plan_of({"small": 10, "large": 1000}))) as progress:
        assert "left" not in progress.line()
        clock[0] = 10.0
        progress.update(part("small", 1, published=True))
        assert "16 min 40 s left" in progress.line()
        for _ in range(20):
            clock[0] += 1.0
            progress.update(part("large", 100))
        assert "1 min 20 s left" in progress.line()  # 800 edits at 10 a second
