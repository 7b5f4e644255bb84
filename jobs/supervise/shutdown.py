"""SIGTERM, Ctrl-C, SIGHUP: take no more parts, finish those in flight, exit with code 75."""

from __future__ import annotations

import signal
import sys
from collections.abc import Callable
from types import FrameType

import ray

from jobs import exit_codes
from jobs.logs import tell
from jobs.supervise.interrupts import restore, stop_signals
from jobs.supervise.journal import Journal


class StopFlag:
    """A flag that the driver sets and that readers on any node check once per part."""

    def __init__(self, journal: Journal) -> None:
        """
        Args:
            journal: holds the flag, since every worker can reach it.
        """
        self._journal = journal

    def set(self) -> None:
        if ray.is_initialized():  # else there are no parts, and a call would start Ray again
            self._journal.ask_to_stop()

    def is_set(self) -> bool:
        """Also False if the journal's process is lost."""
        return self._journal.asked_to_stop()


class GracefulStop:
    """The signal handlers of a run. A second signal, or the end of the grace period, exits."""

    def __init__(self, flag: StopFlag, grace_s: float) -> None:
        self.requested = False
        self.flag = flag
        self.grace_s = grace_s
        # Make this after ray.init, which installs its own handler that exits immediately.
        handlers: dict[signal.Signals, Callable[[int, FrameType | None], None]]
        handlers = dict.fromkeys(stop_signals(), self._on_signal)
        handlers[signal.SIGALRM] = self._on_grace_over
        self._before = {number: signal.signal(number, to) for number, to in handlers.items()}

    def release(self) -> None:
        """Restores the earlier signal handlers and cancels the grace period."""
        signal.setitimer(signal.ITIMER_REAL, 0)
        restore(self._before)

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        if self.requested and number == signal.SIGHUP:
            return  # the shell and the kernel send one each, and nobody is there to press twice
        if self.requested:
            sys.exit(exit_codes.INTERRUPTED)
        self.requested = True
        name = signal.Signals(number).name
        tell(
            f"{name}: taking no further parts; those in flight have {self.grace_s:.0f} s to finish "
            "(a second signal stops immediately)",
            level="warning",
        )
        self.flag.set()
        signal.setitimer(signal.ITIMER_REAL, max(self.grace_s, 0.001))

    def _on_grace_over(self, number: int, frame: FrameType | None) -> None:
        tell("the grace period is over; parts in flight are lost", level="warning")
        sys.exit(exit_codes.INTERRUPTED)
