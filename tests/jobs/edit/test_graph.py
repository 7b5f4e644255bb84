"""The operators of the graph, without Ray."""

from __future__ import annotations

import threading
import time
import weakref
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from typing import Any
from unittest import mock

import pyarrow as pa

from jobs.edit.graph import StageActor, _read, edit_dataset, results_of
from jobs.supervise.shutdown import StopFlag
from jobs.supervise.watchdog import Guard
from pipeline.config.load import parse_config
from pipeline.config.stages import STAGES
from pipeline.execution.operators import Flow, Operator, nothing_around
from pipeline.plan.plan import Plan, ShardWork
from pipeline.records.packing import PART_SCHEMA, pack, unpack
from pipeline.records.part import Part


def test_an_actor_loads_and_computes_in_one_thread() -> None:
    """Whichever threads construct and call it; libgomp lets the teams of two sleep and wake."""
    threads = []

    def compute(part: Part) -> Part:
        threads.append(threading.get_ident())
        return part

    def load(pool: str) -> list[Operator]:
        threads.append(threading.get_ident())
        return [Operator(pool, compute)]

    flow = mock.Mock(spec=Flow, load=load)
    with (
        mock.patch("jobs.edit.graph.starting", return_value=nullcontext()),
        ThreadPoolExecutor(1) as caller,
    ):
        actor = StageActor(flow, "mask", Guard(mock.Mock(), 60.0), nothing_around, None)
        row = pack(Part("0", 0, 1))
        for call in (actor, lambda batch: caller.submit(actor, batch).result()):
            assert call(row).num_rows == 1
    assert len(threads) == 3
    assert len(set(threads)) == 1
    assert threading.get_ident() not in threads


def actor_of(compute: Callable[[Part], Part], stop: StopFlag | None = None) -> StageActor:
    """An actor with one stage."""
    operator = Operator("mask", compute, fails_edits=False)  # so that what it raises comes out
    flow = mock.Mock(spec=Flow, load=lambda pool: [operator])
    with mock.patch("jobs.edit.graph.starting", return_value=nullcontext()):
        return StageActor(flow, "mask", Guard(mock.Mock(), 60.0), nothing_around, stop)


def test_parts_are_handed_over_beside_the_compute() -> None:
    """The second part is unpacked while the first computes, which is packed while that computes."""
    events = {
        (step, index): threading.Event()
        for step in ("unpacked", "computing", "packed")
        for index in range(2)
    }

    def wait_for(step: str, index: int) -> None:
        assert events[step, index].wait(20), f"part {index} is not {step} meanwhile"

    def compute(part: Part) -> Part:
        events["computing", part.index].set()
        wait_for(*(("unpacked", 1) if part.index == 0 else ("packed", 0)))
        return part

    def recorded_unpack(table: pa.Table) -> Part:
        part = unpack(table)
        events["unpacked", part.index].set()
        return part

    def recorded_pack(part: Part) -> pa.Table:
        if part.index == 0:
            wait_for("computing", 1)
        events["packed", part.index].set()
        return pack(part)

    actor = actor_of(compute)
    rows = [pack(Part("0", index, 2)) for index in range(2)]
    with (
        mock.patch("jobs.edit.graph.unpack", recorded_unpack),
        mock.patch("jobs.edit.graph.pack", recorded_pack),
        ThreadPoolExecutor(2) as ray_threads,
    ):
        first = ray_threads.submit(actor, rows[0])
        wait_for("computing", 0)
        second = ray_threads.submit(actor, rows[1])
        found = [unpack(call.result()) for call in (first, second)]
    assert [part.index for part in found] == [0, 1]
    assert all(part.edits == [] and "mask" in part.seconds for part in found)


def test_a_waiting_part_is_dropped_when_the_run_stops() -> None:
    """It was unpacked before the stop and is not begun after it; the one that computes ends."""
    stopped, begun = threading.Event(), threading.Event()
    stop = mock.Mock(spec=StopFlag, is_set=stopped.is_set)

    def compute(part: Part) -> Part:
        begun.set()
        assert stopped.wait(20)
        return part

    actor = actor_of(compute, stop)
    with ThreadPoolExecutor(2) as ray_threads:
        calls = [ray_threads.submit(actor, pack(Part("0", 0, 2)))]
        assert begun.wait(20)
        calls.append(ray_threads.submit(actor, pack(Part("0", 1, 2))))
        while actor.thread._work_queue.qsize() == 0:  # the second one waits in the actor
            time.sleep(0.001)
        stopped.set()
        assert [call.result().num_rows for call in calls] == [1, 0]


def test_a_dropped_part_has_no_result() -> None:
    """After SIGTERM the first stage gives an empty block, which no later operator is called for."""
    assert results_of(PART_SCHEMA.empty_table()) == []


def test_writers_reserve_the_memory_of_the_plan() -> None:
    """Tasks that finish parts do, tasks that read do not: the plan bounds their number."""
    tree: dict[str, Any] = {"input": {"shards": "in"}, "output": {"path": "out"}}
    tree["stages"] = {name: {"actors": 1} for name in STAGES}
    for given, wanted in ((5, {"memory": 5}), (0, {}), (None, {})):
        config = parse_config(tree | {"run": {"layout": "fused", "write_memory_bytes": given}})
        plan = mock.Mock(spec=Plan, config=config, device="cpu")
        with (
            mock.patch("jobs.edit.graph.ray.data.from_items"),
            mock.patch("jobs.edit.graph._then") as then,
        ):
            edit_dataset(
                plan, [mock.Mock(spec=ShardWork)], mock.Mock(spec=Guard), None, mock.Mock()
            )
        reading, _, finishing = (call.args[2] for call in then.call_args_list)
        assert "memory" not in reading
        assert {name: finishing[name] for name in finishing if name == "memory"} == wanted


def test_a_reader_holds_one_row() -> None:
    """The last one is let go before the next part is read; a part takes gigabytes at worst."""
    alive: list[weakref.ref[Part]] = []

    def parts(flow: Flow, work: ShardWork, around: Any, *, ranges: bool) -> Iterator[Part]:
        assert ranges
        for index in range(3):
            assert not [ref for ref in alive if ref() is not None]
            yield Part("0", index, 3)

    def row_of(part: Part) -> Part:
        row = Part("row", part.index, 3)
        alive.append(weakref.ref(row))
        return row

    flow = mock.Mock(spec=Flow, prepare=Operator("prepare", lambda part: part))
    work = mock.Mock(spec=ShardWork)
    batch = pa.table({"number": [0]})
    with mock.patch("jobs.edit.graph.read", parts), mock.patch("jobs.edit.graph.pack", row_of):
        rows = _read(
            batch, [work], flow, mock.Mock(spec=Guard, journal=mock.Mock()), nothing_around, None
        )
        num_rows = 0
        while next(rows, None) is not None:
            num_rows += 1
    assert num_rows == len(alive) == 3
