"""Threads before and behind the stages: the order, the errors and the bytes of one thread."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from pipeline.execution import operators
from pipeline.execution.local_loop import run_loop
from pipeline.execution.prefetch import prefetch, write_behind
from pipeline.plan.plan import Plan
from pipeline.records.part import Part
from pipeline.records.staged import PartResult
from pipeline.steps.prepare import prepare
from pipeline.storage.store import Store
from tests.committing import contents, invert
from tests.fake_job import fake_plan
from tests.samples import raw_sample, write_shard

PATIENCE_S = 30.0  # for what must come; a test that passes waits for nothing


@pytest.fixture(autouse=True)
def _threads_end() -> Iterator[None]:
    """No test leaves a thread behind."""
    before = set(threading.enumerate())
    yield
    assert set(threading.enumerate()) <= before


@pytest.fixture
def planned(tmp_path: Path) -> Callable[..., Plan]:
    """Plans a run over two shards of three parts and of one, into a folder of some name."""
    first = [raw_sample(key, ["a cat", "a fox"], seed=n) for n, key in enumerate("abc")]
    write_shard(tmp_path / "in/0.tar", first)
    write_shard(tmp_path / "in/1.tar", [raw_sample("d"), raw_sample("broken", png=b"no image")])
    return lambda output="out": fake_plan(f"{tmp_path}/in/*.tar", f"{tmp_path}/{output}")


def test_both_forms_write_the_same_bytes(planned: Callable[..., Plan], tmp_path: Path) -> None:
    """With threads and without; and ``on_part`` hears the same parts in the same order."""
    heard = {}
    for beside in (True, False):
        results: list[PartResult] = []
        run_loop(planned(str(beside)), results.append, {"decode": invert}, beside=beside)
        heard[beside] = [(result.shard, result.part, result.published) for result in results]
    assert heard[True] == heard[False]
    assert heard[True] == [("0", 0, False), ("0", 1, False), ("0", 2, True), ("1", 0, True)]
    first, second = (
        {name: data for name, data in contents(tmp_path / folder).items() if name[0] in "01"}
        for folder in ("True", "False")
    )
    assert {name for name in first if not name.endswith(".json")} == {
        f"{shard}.{form}" for shard in "01" for form in ("tar", "parquet")
    }
    for name in first:
        assert name.endswith(".json") or first[name] == second[name]


def test_the_next_part_is_read_and_the_last_one_committed_meanwhile(
    planned: Callable[..., Plan], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A part is staged only once the stages have begun the next one, and they are held up there
    until the one after it is prepared: one thread alone would wait for ever."""
    is_prepared = [threading.Event() for _ in range(5)]
    is_begun = [threading.Event() for _ in range(5)]
    is_staged = [threading.Event() for _ in range(4)]
    is_prepared[4].set()  # there is none after the last one
    is_begun[4].set()
    numbers = iter(range(4))

    def prepared(*arguments: object, **options: object) -> Part:
        part = before(*arguments, **options)  # type: ignore[arg-type]
        is_prepared[part.index if part.shard == "0" else 3].set()
        return part

    def held_up(part: Part) -> Part:
        number = next(numbers)
        is_begun[number].set()
        assert is_prepared[number + 1].wait(PATIENCE_S)
        assert number == 0 or is_staged[number - 1].wait(PATIENCE_S)
        return invert(part)

    def hook(when: str, operation: str, name: str) -> None:
        if operation != "put_if_absent" or not name.endswith(".arrow"):
            return
        number = int(name[9:14]) if name.startswith("_parts/0/") else 3
        if when == "before":
            assert is_begun[number + 1].wait(PATIENCE_S)
        else:
            is_staged[number].set()

    before = prepare
    monkeypatch.setattr(operators, "prepare", prepared)
    monkeypatch.setattr(Store, "hook", staticmethod(hook))
    results: list[PartResult] = []
    assert run_loop(planned(), results.append, {"decode": held_up}).work == []
    assert [sum(result.counts.values()) for result in results] == [2, 2, 2, 2]
    assert [result.counts.get("failed", 0) for result in results] == [0, 0, 0, 1]


def test_on_part_is_called_in_the_callers_thread(planned: Callable[..., Plan]) -> None:
    """A progress bar need not know of threads; nor do the stages."""
    threads = set()

    def stage(part: Part) -> Part:
        threads.add(threading.current_thread())
        return invert(part)

    run_loop(planned(), lambda _: threads.add(threading.current_thread()), {"decode": stage})
    assert threads == {threading.current_thread()}


@pytest.mark.parametrize("beside", [True, False])
def test_a_shard_that_cannot_be_read_ends_the_run_after_the_parts_before_it(
    planned: Callable[..., Plan], tmp_path: Path, *, beside: bool
) -> None:
    """The error comes out of the loop, and what came before it is published and told."""
    plan = planned()
    (tmp_path / "in/1.tar").unlink()
    heard: list[PartResult] = []
    with pytest.raises(FileNotFoundError):
        run_loop(plan, heard.append, {"decode": invert}, beside=beside)
    assert [result.part for result in heard] == [0, 1, 2]
    assert (tmp_path / "out/0_stats.json").is_file()


@pytest.mark.parametrize("beside", [True, False])
def test_a_part_that_cannot_be_committed_ends_the_run(
    planned: Callable[..., Plan], monkeypatch: pytest.MonkeyPatch, tmp_path: Path, *, beside: bool
) -> None:
    """No later part is staged, and none is told of."""

    def hook(when: str, operation: str, name: str) -> None:
        if when == "before" and name.startswith("_parts/0/00001"):
            raise PermissionError(name)

    monkeypatch.setattr(Store, "hook", staticmethod(hook))
    heard: list[PartResult] = []
    with pytest.raises(PermissionError, match="00001"):
        run_loop(planned(), heard.append, {"decode": invert}, beside=beside)
    assert [result.part for result in heard] == [0]
    assert [path.name[:5] for path in (tmp_path / "out/_parts").rglob("*.arrow")] == ["00000"]


@pytest.mark.parametrize("where", ["stage", "on_part"])
def test_ctrl_c_ends_the_threads_and_the_run_goes_on_later(
    planned: Callable[..., Plan], where: str, tmp_path: Path
) -> None:
    """Whatever was being read or committed then; the next run ends in the same bytes."""
    seen = []

    def interrupt(where_now: str) -> None:
        seen.append(where_now)
        if seen.count(where) == 2:
            raise KeyboardInterrupt

    def stage(part: Part) -> Part:
        interrupt("stage")
        return invert(part)

    with pytest.raises(KeyboardInterrupt):
        run_loop(planned(), lambda _: interrupt("on_part"), {"decode": stage})
    run_loop(planned(), None, {"decode": invert})
    run_loop(planned("whole"), None, {"decode": invert}, beside=False)
    for name in ("0.tar", "0.parquet", "1.tar", "1.parquet"):
        assert (tmp_path / "out" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


def test_at_most_one_item_is_made_ahead() -> None:
    """A shard is not read into memory while the stages are busy with its first part."""
    made: list[int] = []

    def items() -> Iterator[int]:
        for number in range(5):
            made.append(number)
            yield number

    for number in prefetch(items()):
        assert len(made) <= number + 2
    assert made == [0, 1, 2, 3, 4]


def test_a_failed_call_is_the_last_one() -> None:
    """The item after it is there already, and is not handed over."""
    called = []

    def call(number: int) -> int:
        called.append(number)
        return 1 // (2 - number)

    with pytest.raises(ZeroDivisionError):
        list(write_behind(call, range(5)))
    assert called == [0, 1, 2]
