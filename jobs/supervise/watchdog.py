"""A worker that hangs in a part is ended, so that the part can be retried and then fails alone."""

from __future__ import annotations

import contextlib
import faulthandler
import os
import signal
import threading
import time
from dataclasses import dataclass
from types import TracebackType

from jobs.logs import is_json, note, set_place, tell, use_format
from jobs.supervise.journal import Journal
from pipeline.process.heartbeat import on_heartbeat

# Where run.part_timeout_s is not given. A network call, an image or a storage call that takes an
# hour is taken for a hang; a part may take days as long as these go on.
SILENCE_S = 3600.0
# What holds Python's lock in native code stops the watching thread too; faulthandler's own thread
# needs no lock, but can tell nobody. So it comes second.
BACKSTOP_S = 5.0
STDERR = 2  # the worker's log; sys.stderr may be no file


@dataclass(frozen=True)
class Guard:
    """What the operators of a run need to watch over their parts; travels to every worker."""

    journal: Journal
    part_timeout_s: float | None
    silence_s: float = SILENCE_S  # without a sign of life, where no timeout was given
    log_format: str = "text"  # how its workers talk

    def watch(self, shard: str, part: int | None, step: str) -> Watch:
        """A context manager around one step on one part (None: the reader looks for the next)."""
        use_format(self.log_format)
        self.journal.begin(shard, part, step)
        timeout_s = self.part_timeout_s
        limit_s = self.silence_s if timeout_s is None else timeout_s
        return Watch(self.journal, limit_s, shard, part, step, renewed=timeout_s is None)


class Watch:
    """Ends this process when the block takes longer than it may.

    An exception could not interrupt native code, so the process ends: Ray starts another, and the
    part is retried as after any other death. A limit that was given is one of the whole block; else
    it is one of the time since the last sign of life.
    """

    def __init__(
        self,
        journal: Journal,
        limit_s: float,
        shard: str,
        part: int | None,
        step: str,
        *,
        renewed: bool,
    ) -> None:
        self.journal = journal
        self.limit_s = limit_s
        self.renewed = renewed  # at each sign of life
        self.shard, self.part, self.step = shard, part, step
        self.over = threading.Event()
        self.lock = threading.Lock()
        self.thread = threading.Thread(target=self._wait, name="overpaint-watch", daemon=True)

    def __enter__(self) -> None:
        set_place(self.shard, self.part, self.step)
        self.begun = self.since = self.armed = time.monotonic()
        self._arm_backstop()
        if self.renewed:
            on_heartbeat(self._renew)
        self.thread.start()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        on_heartbeat(None)
        faulthandler.cancel_dump_traceback_later()
        with self.lock:
            self.over.set()
        note("the step ended", seconds=round(time.monotonic() - self.begun, 3))
        set_place()

    def _renew(self) -> None:
        self.since = time.monotonic()
        if self.since - self.armed > BACKSTOP_S / 2:  # arming starts a thread: not at every call
            self.armed = self.since
            self._arm_backstop()

    def _arm_backstop(self) -> None:
        with contextlib.suppress(ValueError, RuntimeError):  # no stderr: then without
            faulthandler.dump_traceback_later(self.limit_s + BACKSTOP_S, exit=True, file=STDERR)

    def _wait(self) -> None:
        while not self.over.wait(max(0.0, self.since + self.limit_s - time.monotonic())):
            with self.lock:
                if not self.over.is_set() and time.monotonic() - self.since >= self.limit_s:
                    self._end()

    def _end(self) -> None:
        """Says why in this worker's log and in the journal, and ends the process."""
        reason = self.journal.timed_out(self.shard, self.part, self.step, self.limit_s)
        end_process(reason)


def end_process(reason: str) -> None:
    """Says why, and what each thread was at, in this worker's log, and kills this process."""
    with contextlib.suppress(OSError, ValueError):
        if is_json():
            tell(f"{reason}; this worker is ended", level="error")
        else:
            os.write(STDERR, f"overpaint: {reason}; this worker is ended\n".encode())
        faulthandler.dump_traceback(STDERR)
    os.kill(os.getpid(), signal.SIGKILL)
