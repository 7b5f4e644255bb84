"""What many workers report about one outage becomes one line at its start and one at its end."""

from __future__ import annotations

import time

import pytest

from jobs.supervise import starts
from jobs.supervise.main_thread import MainThread
from jobs.supervise.outages import StoreOutages
from jobs.supervise.starts import JournalWatch
from jobs.supervise.watchdog import Guard
from pipeline.process import outage
from tests.jobs.local_journal import LocalJournal


def test_many_workers_report_one_outage() -> None:
    """The first report begins it; the first worker that gets an answer ends it."""
    outages = StoreOutages()
    for _ in range(8):
        outages.report("s3://b", "TimeoutError", 5.0)
    outages.report("s3://other", "TimeoutError", 5.0)
    assert outages.take_lines() == [
        f"the store {store} does not answer: TimeoutError; retrying"
        for store in ("s3://b", "s3://other")
    ]
    for _ in range(8):
        outages.report("s3://b", None, 24.0)
    (line,) = outages.take_lines()
    assert line.startswith("the store s3://b answers again, after ")
    outages.report("s3://b", "TimeoutError", 5.0)
    assert len(outages.take_lines()) == 1, "another outage has lines of its own"


def test_the_driver_logs_outages_during_the_run(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Those of workers and its own, as one; after the run its own are logged as before."""
    monkeypatch.setattr(starts, "POLL_S", 0.01)
    journal = LocalJournal()
    said = ""
    with MainThread() as main_thread, JournalWatch(journal, main_thread):
        journal.outage("s3://b", "TimeoutError", 5.0)
        outage._listener("s3://b", "TimeoutError", 6.0)
        deadline = time.monotonic() + 10
        while "retrying" not in said and time.monotonic() < deadline:
            said += capsys.readouterr().err
            time.sleep(0.01)
        journal.outage("s3://b", None, 24.0)
    said += capsys.readouterr().err
    first, last = said.splitlines()
    assert first == "the store s3://b does not answer: TimeoutError; retrying"
    assert last.startswith("the store s3://b answers again")
    assert outage._listener is outage.log_outage


def test_a_workers_outage_goes_to_the_journal() -> None:
    """In whatever step it is; the watchdog of the step sets it up."""
    journal = LocalJournal()
    try:
        with Guard(journal, None).watch("0", 0, "commit"):
            outage._listener("s3://b", "TimeoutError", 5.0)
    finally:
        outage.on_outage(None)
    assert journal.take_outages() == ["the store s3://b does not answer: TimeoutError; retrying"]
