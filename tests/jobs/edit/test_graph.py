"""The operators of the graph, without Ray."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from unittest import mock

from jobs.edit.graph import PART_SCHEMA, StageActor, _row_of, results_of
from jobs.supervise.watchdog import Guard
from pipeline.execution.operators import Flow, Operator, nothing_around
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
        row = _row_of(Part("0", 0, 1))
        for call in (actor, lambda batch: caller.submit(actor, batch).result()):
            assert call(row).num_rows == 1
    assert len(threads) == 3
    assert len(set(threads)) == 1
    assert threading.get_ident() not in threads


def test_a_dropped_part_has_no_result() -> None:
    """After SIGTERM the first stage gives an empty block, which no later operator is called for."""
    assert results_of(PART_SCHEMA.empty_table()) == []
