"""SIGTERM and Ctrl-C: take no more parts, finish those in flight, exit with a code of its own."""

from __future__ import annotations

import signal
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from types import FrameType
from typing import Any

import ray

from jobs import exit_codes
from jobs.logs import tell
from jobs.supervise.journal import Journal


class StopFlag:
    """A flag that the driver sets and readers on any node look at, once a part."""

    def __init__(self, journal: Journal) -> None:
        """
        Args:
            journal: keeps it, as an actor that every worker reaches already.
        """
        self._journal = journal

    def set(self) -> None:
        if ray.is_initialized():  # else no part is left to stop; asked, Ray would start anew
            self._journal.ask_to_stop()

    def is_set(self) -> bool:
        """False too where the journal's process is gone: then nobody asked to stop."""
        return self._journal.asked_to_stop()


class GracefulStop:
    """The signal handlers of a run. A second signal, or the end of grace, exits at once."""

    def __init__(self, flag: StopFlag, grace_s: float) -> None:
        self.requested = False
        self.flag = flag
        self.grace_s = grace_s
        # After ray.init, which installs a handler of its own that exits at once.
        handlers = {
            signal.SIGTERM: self._on_signal,
            signal.SIGINT: self._on_signal,
            signal.SIGALRM: self._on_grace_over,
        }
        self._before = {number: signal.signal(number, to) for number, to in handlers.items()}

    def release(self) -> None:
        """What a signal did before this stop was made, it does again; no grace runs out."""
        signal.setitimer(signal.ITIMER_REAL, 0)
        _give_back(self._before)

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        if self.requested:
            sys.exit(exit_codes.INTERRUPTED)
        self.requested = True
        name = signal.Signals(number).name
        tell(
            f"{name}: taking no further parts; those in flight have {self.grace_s:.0f} s to finish "
            "(a second signal stops at once)",
            level="warning",
        )
        self.flag.set()
        signal.setitimer(signal.ITIMER_REAL, max(self.grace_s, 0.001))

    def _on_grace_over(self, number: int, frame: FrameType | None) -> None:
        tell("the grace period is over; parts in flight are lost", level="warning")
        sys.exit(exit_codes.INTERRUPTED)


@contextmanager
def interruptible() -> Iterator[None]:
    """SIGTERM and Ctrl-C before the first part and after the last one: nothing is in flight.

    ``GracefulStop`` stands in for these handlers while there are parts.
    """

    def on_signal(number: int, frame: FrameType | None) -> None:
        name = signal.Signals(number).name
        tell(f"{name}: no part is in flight; run the same command to go on", level="warning")
        sys.exit(exit_codes.INTERRUPTED)

    before = {
        number: signal.signal(number, on_signal) for number in (signal.SIGTERM, signal.SIGINT)
    }
    try:
        yield
    finally:
        _give_back(before)


def _give_back(before: Mapping[signal.Signals, Any]) -> None:
    """Signals to the handlers that they had; None is one that was not set from Python."""
    for number, handler in before.items():
        signal.signal(number, signal.SIG_DFL if handler is None else handler)
