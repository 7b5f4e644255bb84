"""Workers that cannot start: tried again a few times each, then the run ends with the reason.

By itself Ray ends a run at the first constructor that raises, keeps an actor whose restart raised
as a dead member of its pool for ever, and brings back a process that dies while it loads a hundred
times.
"""

from __future__ import annotations

import signal
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType, TracebackType

import ray

from jobs.logs import tell
from jobs.supervise.journal import Journal
from jobs.supervise.watchdog import end_process

LOOK_EVERY_S = 2.0


class CannotGoOnError(RuntimeError):
    """No part is at fault: a worker does not start, or the store takes nothing. It says why."""


@contextmanager
def starting(journal: Journal, pool: str) -> Iterator[None]:
    """Around what an actor loads at its start. A failure ends its process; Ray starts another.

    Args:
        journal: hears of it.
        pool: the name of the actor's pool.
    """
    worker = ray.get_runtime_context().get_actor_id()
    assert worker is not None, "not in an actor"
    journal.start_begins(worker, pool, socket.gethostname())
    try:
        yield
    except Exception as error:  # noqa: BLE001 - whatever it is, another process may do better
        reason = f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0]}"
        journal.start_failed(worker, reason)
        end_process(f"the pool {pool} cannot start: {reason}")
    journal.start_done(worker)


class JournalWatch:
    """While it lasts the driver tells what the journal hears, and ends where that has given up.

    Raises:
        CannotGoOnError: in the main thread, wherever it waits.
    """

    def __init__(self, journal: Journal) -> None:
        self.journal = journal
        self.over = threading.Event()
        self.thread = threading.Thread(target=self._look, name="overpaint-journal", daemon=True)
        self.reason: str | None = None

    def __enter__(self) -> JournalWatch:
        self.before = signal.signal(signal.SIGUSR2, self._raise)
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
        if error is None or isinstance(error, Exception):  # not where the process is to end at once
            tell_ended_workers(self.journal)
        signal.signal(signal.SIGUSR2, self.before)
        if isinstance(error, ray.exceptions.RayError):  # Ray was first: it gave the actor up
            reason = self.journal.start_problem()
            if reason is not None:
                raise CannotGoOnError(reason) from error

    def _raise(self, number: int, frame: FrameType | None) -> None:
        raise CannotGoOnError(self.reason)

    def _look(self) -> None:
        main = threading.main_thread().ident
        while not self.over.wait(LOOK_EVERY_S):
            tell_ended_workers(self.journal)
            self.reason = self.journal.given_up()
            if self.reason is not None and not self.over.is_set() and main is not None:
                signal.pthread_kill(main, signal.SIGUSR2)
                return


def tell_ended_workers(journal: Journal) -> None:
    """Why workers were ended since this was asked last, a line each."""
    for (shard, part), reason in journal.take_reasons():
        tell(f"{reason}; its worker was ended", level="warning", shard=shard, part=part)
