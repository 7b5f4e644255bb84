"""A store that takes nothing any more ends the run; one that is away for minutes does not."""

from __future__ import annotations

from functools import partial
from types import SimpleNamespace
from unittest import mock

import pytest

from jobs.edit.graph import PART_SCHEMA, _finish, _row_of
from jobs.edit.worker import around_step
from jobs.supervise import failure_counts as refusals
from jobs.supervise.journal import Journal
from jobs.supervise.watchdog import Guard
from pipeline.execution.operators import COMMIT, Flow, Operator
from pipeline.records.part import Part
from pipeline.records.staged import PartResult
from tests.jobs.local_journal import LocalJournal

DENIED = PermissionError("put s3://bucket/out: Forbidden; check the credentials")


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    now = SimpleNamespace(s=1000.0)
    monkeypatch.setattr(refusals.time, "monotonic", lambda: now.s)
    return now


def finish(journal: Journal, error: Exception | None = None) -> None:
    """The last operator of the stream, with a store that answers so."""

    def commit(part: Part) -> Part:
        if error is not None:
            raise error
        part.result = PartResult("0", 0, {"edited": 1})
        return part

    last = [Operator("finish", lambda part: part), Operator(COMMIT, commit, fails_edits=False)]
    flow = mock.Mock(spec=Flow, last=last)
    batch = _row_of(Part("0", 0, 1))
    assert batch.schema == PART_SCHEMA
    _finish(batch, flow, partial(around_step, Guard(journal, part_timeout_s=60.0), "cpu"))


def refused(journal: Journal, error: Exception = DENIED) -> None:
    with pytest.raises(type(error)):
        finish(journal, error)


def test_parts_that_nobody_stores_for_minutes_end_the_run(clock: SimpleNamespace) -> None:
    """With the store's own words; else every later part would be computed and lost."""
    journal = LocalJournal()
    for _ in range(3):
        refused(journal)
        assert journal.given_up() is None
        clock.s += 101.0
    refused(journal)
    assert journal.given_up() == f"no part could be stored for 303 s: PermissionError: {DENIED}"


def test_a_part_that_is_stored_begins_anew(clock: SimpleNamespace) -> None:
    """One bad node among many, or a store that was away for a while: lost parts run again alone.

    A shard that was read to its end is no part that was stored.
    """
    journal = LocalJournal()
    for _ in range(3):
        refused(journal)
        clock.s += 299.0
        refused(journal)
        finish(journal)
    for _ in range(2):
        refused(journal)
        journal.end("0", None)
        clock.s += 299.0
        assert journal.given_up() is None
    refused(journal)
    assert journal.given_up() is not None


def test_few_parts_that_take_long_do_not_end_it(clock: SimpleNamespace) -> None:
    """Two in a row are no proof, however far they lie apart."""
    journal = LocalJournal()
    for _ in range(2):
        refused(journal)
        clock.s += 4000.0
    assert journal.given_up() is None


def test_what_a_part_itself_raises_is_no_store_s_fault(clock: SimpleNamespace) -> None:
    """A fault of the code or of the machine costs its part alone."""
    journal = LocalJournal()
    for _ in range(9):
        refused(journal, ValueError("planted"))
        clock.s += 100.0
    assert journal.given_up() is None
