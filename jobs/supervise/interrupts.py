"""Signals where no parts are in flight on Ray: exit with code 75. Loads nothing slow."""

from __future__ import annotations

import signal
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from types import FrameType
from typing import Any

from jobs.logs import tell


class Interrupted(KeyboardInterrupt):
    """A signal ends the process. Not SystemExit, which a step turns into failed edits."""


def stop_signals() -> tuple[signal.Signals, ...]:
    """SIGTERM, Ctrl-C, and SIGHUP of a terminal that closes, unless nohup has it ignored."""
    ignored = signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
    return (signal.SIGTERM, signal.SIGINT, *(() if ignored else (signal.SIGHUP,)))


@contextmanager
def interruptible() -> Iterator[None]:
    """Handles ``stop_signals`` before the first part on Ray and after the last one.

    While parts are in flight on Ray, ``GracefulStop`` (``jobs/supervise/shutdown.py``) replaces
    these handlers. In the local loop they hold all the time: what is committed stays.

    Raises:
        Interrupted: a signal came.
    """

    def on_signal(number: int, frame: FrameType | None) -> None:
        name = signal.Signals(number).name
        if number == signal.SIGHUP:  # the shell and the kernel send one each
            signal.signal(signal.SIGHUP, signal.SIG_IGN)
        tell(f"{name}: stopped; run the same command to resume", level="warning")
        raise Interrupted

    before = {number: signal.signal(number, on_signal) for number in stop_signals()}
    try:
        yield
    finally:
        restore(before)


def restore(before: Mapping[signal.Signals, Any]) -> None:
    """Restores signal handlers; None is a handler that was not set from Python."""
    for number, handler in before.items():
        signal.signal(number, signal.SIG_DFL if handler is None else handler)
