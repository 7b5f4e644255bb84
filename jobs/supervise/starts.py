"""Workers that cannot start: each gets a few retries, then the run ends with the reason.

Without this, Ray ends a run when the first constructor raises, keeps an actor whose restart raised
as a dead member of its pool forever, and restarts a process that dies while it loads a hundred
times.
"""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import TracebackType

import ray

from jobs.logs import tell
from jobs.supervise.journal import Journal
from jobs.supervise.main_thread import MainThread
from jobs.supervise.watchdog import end_process
from pipeline.process.outage import on_outage

POLL_S = 2.0


class CannotGoOnError(RuntimeError):
    """The run cannot continue: a worker does not start, or no part can be stored."""


@contextmanager
def starting(journal: Journal, pool: str) -> Iterator[None]:
    """Wraps the loading of an actor's model. An error kills the process; Ray starts another.

    Args:
        journal: records the start.
        pool: the name of the actor's pool.
    """
    worker = ray.get_runtime_context().get_actor_id()
    assert worker is not None, "not in an actor"
    journal.start_begins(worker, pool, socket.gethostname())
    try:
        yield
    except Exception as error:  # noqa: BLE001 - any error: another process may succeed
        reason = f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0]}"
        journal.start_failed(worker, reason)
        end_process(f"the pool {pool} cannot start: {reason}")
    journal.start_done(worker)


class JournalWatch:
    """A context manager of the driver: polls the journal, logs killed workers, and ends the run.

    Raises:
        CannotGoOnError: in the main thread, wherever it waits, once the journal has given up.
    """

    def __init__(self, journal: Journal, main_thread: MainThread) -> None:
        self.journal, self.main_thread = journal, main_thread
        self.over = threading.Event()
        self.thread = threading.Thread(target=self._poll, name="overpaint-journal", daemon=True)

    def __enter__(self) -> JournalWatch:
        on_outage(self.journal.outage)  # this process and its workers tell one outage once
        self.thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.over.set()
        self.thread.join()
        on_outage(None)
        if error is None or isinstance(error, Exception):  # not if the process has to exit now
            tell_reports(self.journal)
        if isinstance(error, ray.exceptions.RayError):  # Ray gave the actor up before the journal
            reason = self.journal.start_problem()
            if reason is not None:
                raise CannotGoOnError(reason) from error

    def _poll(self) -> None:
        while not self.over.wait(POLL_S):
            tell_reports(self.journal)
            reason = self.journal.given_up()
            if reason is not None and not self.over.is_set():
                self.main_thread.interrupt(CannotGoOnError(reason))
                return


def tell_reports(journal: Journal) -> None:
    """Logs what workers have reported: outages, notices, and why workers were killed."""
    for line in [*journal.take_outages(), *journal.take_notices()]:
        tell(line, level="warning")
    for (shard, part), reason in journal.take_reasons():
        tell(f"{reason}; its worker was killed", level="warning", shard=shard, part=part)
