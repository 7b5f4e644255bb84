"""A store that refuses every part ends the run; a store that fails for minutes does not."""

from __future__ import annotations

import time
from functools import partial
from types import SimpleNamespace
from unittest import mock

import pytest

from jobs.edit.graph import _finish
from jobs.edit.worker import around_step
from jobs.supervise.journal import Journal
from jobs.supervise.watchdog import Guard
from pipeline.execution.operators import COMMIT, Flow, Operator
from pipeline.records.packing import PART_SCHEMA, pack
from pipeline.records.part import Part
from pipeline.records.staged import PartResult
from tests.jobs.local_journal import LocalJournal

DENIED = PermissionError("put s3://bucket/out: Forbidden; check the credentials")


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    now = SimpleNamespace(s=1000.0)
    monkeypatch.setattr(time, "monotonic", lambda: now.s)
    return now


def finish(journal: Journal, error: Exception | None = None) -> None:
    """Runs the last operator of the stream, with a store that raises this error."""

    def commit(part: Part) -> Part:
        if error is not None:
            raise error
        part.result = PartResult("0", 0, {"edited": 1})
        return part

    last = [Operator("finish", lambda part: part), Operator(COMMIT, commit, fails_edits=False)]
    flow = mock.Mock(spec=Flow, last=last)
    batch = pack(Part("0", 0, 1))
    assert batch.schema == PART_SCHEMA
    _finish(batch, flow, partial(around_step, Guard(journal, part_timeout_s=60.0), "cpu"))


def refused(journal: Journal, error: Exception = DENIED) -> None:
    with pytest.raises(type(error)):
        finish(journal, error)


def test_parts_refused_for_minutes_end_the_run(clock: SimpleNamespace) -> None:
    """The reason quotes the store; otherwise every later part would be computed and lost."""
    journal = LocalJournal()
    for _ in range(3):
        refused(journal)
        assert journal.given_up() is None
        clock.s += 101.0
    refused(journal)
    assert journal.given_up() == f"no part could be stored for 303 s: PermissionError: {DENIED}"


def test_a_stored_part_resets_the_count(clock: SimpleNamespace) -> None:
    """One bad node, or a store that failed for a while, does not end the run."""
    journal = LocalJournal()
    for _ in range(3):
        refused(journal)
        clock.s += 299.0
        refused(journal)
        finish(journal)
    for _ in range(2):
        refused(journal)
        journal.end("0", None)  # the reader's end of a shard does not count as a stored part
        clock.s += 299.0
        assert journal.given_up() is None
    refused(journal)
    assert journal.given_up() is not None


def test_two_refused_parts_do_not_end_the_run(clock: SimpleNamespace) -> None:
    """Two in a row are too few, however long they take."""
    journal = LocalJournal()
    for _ in range(2):
        refused(journal)
        clock.s += 4000.0
    assert journal.given_up() is None


def test_errors_that_are_not_of_storage_are_not_counted(clock: SimpleNamespace) -> None:
    """A fault of the code or of the machine costs only its part."""
    journal = LocalJournal()
    for _ in range(9):
        refused(journal, ValueError("deliberate"))
        clock.s += 100.0
    assert journal.given_up() is None
