"""Heartbeats: long computations report progress, and a watchdog listens for it."""

from __future__ import annotations

from collections.abc import Callable

Listener = Callable[[str | None], None]  # takes the sample that is next, where one is

_listener: Listener | None = None


def on_heartbeat(listener: Listener | None) -> None:
    """Sets the function that is called at each heartbeat of this process; None removes it."""
    global _listener
    _listener = listener


def heartbeat(sample: str | None = None) -> None:
    """Call this in a long computation, each time that it has made progress.

    Args:
        sample: the key of the sample that the caller takes next, if it takes one after the other.
    """
    if _listener is not None:
        _listener(sample)
