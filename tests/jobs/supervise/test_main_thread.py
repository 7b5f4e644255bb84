"""Errors that another thread raises in the main thread."""

from __future__ import annotations

import os
import signal
import threading
import time

import pytest

from jobs.supervise.main_thread import MainThread


def test_the_main_thread_is_interrupted_where_it_waits() -> None:
    """By the error itself, long before its wait is over."""
    start = time.monotonic()
    with MainThread() as main_thread:
        threading.Timer(0.05, main_thread.interrupt, [OSError("no way")]).start()
        with pytest.raises(OSError, match="no way"):
            time.sleep(20)
    assert time.monotonic() - start < 10


def test_a_signal_of_others_raises_nothing() -> None:
    """And once the block is left, the signal does what it did before."""
    seen: list[int] = []
    before = signal.signal(signal.SIGUSR2, lambda number, frame: seen.append(number))
    try:
        with MainThread():
            os.kill(os.getpid(), signal.SIGUSR2)
        assert seen == []
        os.kill(os.getpid(), signal.SIGUSR2)
        assert seen == [signal.SIGUSR2]
    finally:
        signal.signal(signal.SIGUSR2, before)
