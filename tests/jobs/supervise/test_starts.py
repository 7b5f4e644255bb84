"""Workers that do not start are retried a few times; then the run ends with the reason."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from jobs.supervise import starts
from jobs.supervise.failure_counts import CRASHED, StartFailures
from jobs.supervise.main_thread import MainThread
from jobs.supervise.starts import JournalWatch
from tests.jobs.conftest import Job, Recovered
from tests.jobs.edit.test_faults import OVERRIDES
from tests.jobs.faulty import LOADS, install
from tests.jobs.local_journal import LocalJournal


def failing(book: StartFailures, worker: str, times: int) -> None:
    for _ in range(times):
        book.begin(worker, "mask", "host1")
        book.fail(worker, "OSError: no such file")


def test_a_run_ends_when_one_worker_has_no_retries_left() -> None:
    """Each worker is counted alone: in a large pool, many may fail once for a transient reason."""
    book = StartFailures(retries=2)
    for worker in ("a", "b", "c", "d"):
        failing(book, worker, 2)
    assert book.given_up is None
    failing(book, "b", 1)
    assert book.given_up == (
        "a worker of the pool mask cannot start on host1, 3 times in a row: OSError: no such file"
    )


def test_a_successful_start_resets_the_count() -> None:
    """Only failures in a row count, so that a long run does not add them up."""
    book = StartFailures(retries=1)
    for _ in range(5):
        failing(book, "a", 1)
        book.begin("a", "mask", "host1")
        book.done("a")
    assert book.given_up is None
    assert not book.open


def test_a_process_that_dies_while_it_loads_is_counted() -> None:
    """The next process of the same worker shows that the first one died."""
    book = StartFailures(retries=0)
    book.begin("a", "decode", "host1")
    assert book.last is None
    book.begin("a", "decode", "host2")
    assert book.given_up == f"a worker of the pool decode cannot start on host1: {CRASHED}"


def test_the_driver_logs_killed_workers_during_the_run(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each is logged once; those after the last poll are logged at the end."""
    monkeypatch.setattr(starts, "POLL_S", 0.01)
    journal, place = LocalJournal(), ("a", 3)
    with MainThread() as main_thread, JournalWatch(journal, main_thread) as watch:
        journal.timed_out(*place, "mask", 600.0)
        deadline = time.monotonic() + 10
        while not (told := capsys.readouterr().err) and time.monotonic() < deadline:
            time.sleep(0.01)
        assert told == "part 3 of shard a: mask timed out after 600 s; its worker was killed\n"
        watch.over.set()
        watch.thread.join()
        journal.timed_out(*place, "decode", 600.0)
    assert capsys.readouterr().err.count("its worker was killed") == 1


@pytest.mark.slow
def test_a_model_that_loads_at_the_third_attempt_is_used(recovered: Recovered) -> None:
    """Two deaths of a worker while it loads cost only time."""
    assert recovered.done.returncode == 0, recovered.done.stderr + recovered.done.stdout
    assert len(list(recovered.output.glob("*_stats.json"))) == 3


@pytest.mark.slow
def test_a_model_that_never_loads_ends_the_run_with_the_reason(job: Job, tmp_path: Path) -> None:
    """Exit code 1 and one line that names pool, host and reason; no part fails."""
    env = install(tmp_path / "site", faults=False) | {LOADS: f"raise 1000 {tmp_path / 'site'}"}
    done = job.run(tmp_path / "out", *OVERRIDES, "run.max_start_retries=2", **env)
    assert done.returncode == 1
    lines = [line for line in done.stderr.splitlines() if line.startswith("overpaint:")]
    assert len(lines) == 1, done.stderr
    assert f"a worker of the pool mask cannot start on {os.uname().nodename}, 3 times" in lines[0]
    assert "RuntimeError: CUDA error: no device" in lines[0]
    assert "Traceback" not in done.stderr
    assert not list((tmp_path / "out").glob("**/*.tar"))
