"""The watchdog: kills a worker that hangs on a part, so that the part is retried."""

from __future__ import annotations

import contextlib
import faulthandler
import os
import signal
import threading
import time
from dataclasses import dataclass, replace
from types import TracebackType

from jobs.logs import is_json, note, set_place, tell, use_format
from jobs.supervise.journal import Journal
from pipeline.process.heartbeat import on_heartbeat
from pipeline.process.notice import on_notice
from pipeline.process.outage import on_outage

# The limit without run.part_timeout_s: the longest time between two heartbeats. A part may take
# days, but a network call, an image or a storage call that takes an hour counts as a hang.
SILENCE_S = 3600.0
# Native code that holds Python's lock blocks the watchdog's thread too. faulthandler's thread needs
# no lock, but cannot write to the journal; so it fires this much later.
BACKSTOP_S = 5.0
STDERR = 2  # the worker's log; sys.stderr may not be a file


@dataclass(frozen=True)
class Guard:
    """The watchdog's settings and journal, which travel to every worker."""

    journal: Journal
    part_timeout_s: float | None
    silence_s: float = SILENCE_S  # limit between heartbeats, if there is no part_timeout_s
    log_format: str = "text"  # of the workers' log lines
    names_samples: bool = False  # the journal knows the sample of a step that takes one by one

    def by_sample(self) -> Guard:
        """The same limit for each sample of a step that takes one by one, and its name."""
        limit_s = self.silence_s if self.part_timeout_s is None else self.part_timeout_s
        return replace(self, part_timeout_s=None, silence_s=limit_s, names_samples=True)

    def watch(self, shard: str, part: int | None, step: str) -> Watch:
        """A context manager for one step on one part (None: the reader looks for the next)."""
        use_format(self.log_format)
        on_outage(self.journal.outage)
        on_notice(self.journal.notice)
        self.journal.begin(shard, part, step)
        timeout_s = self.part_timeout_s
        limit_s = self.silence_s if timeout_s is None else timeout_s
        return Watch(
            *(self.journal, limit_s, shard, part, step),
            renewed=timeout_s is None,
            names_samples=self.names_samples,
        )


class Watch:
    """Kills this process when the block exceeds its time limit.

    An exception cannot interrupt native code, so the process is killed: Ray starts another, and the
    part is retried as after any other death. ``part_timeout_s`` limits the whole block; without it,
    the limit is the time since the last heartbeat.
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
        names_samples: bool = False,
    ) -> None:
        self.journal = journal
        self.limit_s = limit_s
        self.renewed = renewed  # whether each heartbeat restarts the limit
        self.names_samples = names_samples
        self.shard, self.part, self.step = shard, part, step
        self.sample: str | None = None  # that the step is at, where samples are named
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

    def _renew(self, sample: str | None) -> None:
        if self.names_samples and sample is not None:
            self.sample = sample
            self.journal.at_sample(self.shard, self.part, self.step, sample)
        self.since = time.monotonic()
        if self.since - self.armed > BACKSTOP_S / 2:  # not at every call: arming starts a thread
            self.armed = self.since
            self._arm_backstop()

    def _arm_backstop(self) -> None:
        with contextlib.suppress(ValueError, RuntimeError):  # without a stderr there is no backstop
            faulthandler.dump_traceback_later(self.limit_s + BACKSTOP_S, exit=True, file=STDERR)

    def _wait(self) -> None:
        while not self.over.wait(max(0.0, self.since + self.limit_s - time.monotonic())):
            with self.lock:
                if not self.over.is_set() and time.monotonic() - self.since >= self.limit_s:
                    self._end()

    def _end(self) -> None:
        """Writes the reason into the journal and this worker's log, and kills the process."""
        reason = self.journal.timed_out(self.shard, self.part, self.step, self.limit_s, self.sample)
        end_process(reason)


def end_process(reason: str) -> None:
    """Writes the reason and every thread's traceback into this worker's log; kills the process."""
    with contextlib.suppress(OSError, ValueError):
        if is_json():
            tell(f"{reason}; killing this worker", level="error")
        else:
            os.write(STDERR, f"overpaint: {reason}; killing this worker\n".encode())
        faulthandler.dump_traceback(STDERR)
    os.kill(os.getpid(), signal.SIGKILL)
