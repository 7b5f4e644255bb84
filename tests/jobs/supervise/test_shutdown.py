"""A run's signal handlers are installed only while it runs."""

from __future__ import annotations

import os
import signal

import pytest

from jobs.supervise.shutdown import GracefulStop, StopFlag

NUMBERS = (signal.SIGTERM, signal.SIGINT, signal.SIGALRM)


class Flag(StopFlag):
    """A flag that needs no Ray."""

    def __init__(self) -> None:
        self.value = False

    def set(self) -> None:
        self.value = True


def test_a_released_stop_restores_the_signal_handlers(capsys: pytest.CaptureFixture[str]) -> None:
    """A signal sets the flag; afterwards the timer is off and the handlers are restored."""
    before = [signal.getsignal(number) for number in NUMBERS]
    stop = GracefulStop(Flag(), grace_s=60)
    try:
        os.kill(os.getpid(), signal.SIGTERM)
        assert stop.requested
        assert stop.flag.value  # type: ignore[attr-defined]
        assert signal.getitimer(signal.ITIMER_REAL)[0] > 0
    finally:
        stop.release()
    assert [signal.getsignal(number) for number in NUMBERS] == before
    assert signal.getitimer(signal.ITIMER_REAL) == (0.0, 0.0)
    assert "SIGTERM: taking no further parts" in capsys.readouterr().err


def test_two_hangups_are_one(capsys: pytest.CaptureFixture[str]) -> None:
    """The shell sends one and the kernel another; a SIGTERM after them ends the run."""
    stop = GracefulStop(Flag(), grace_s=60)
    try:
        os.kill(os.getpid(), signal.SIGHUP)
        os.kill(os.getpid(), signal.SIGHUP)
        assert stop.requested
        with pytest.raises(SystemExit):
            os.kill(os.getpid(), signal.SIGTERM)
    finally:
        stop.release()
    assert capsys.readouterr().err.count("SIGHUP: taking no further parts") == 1
    assert signal.getsignal(signal.SIGHUP) == signal.SIG_DFL
