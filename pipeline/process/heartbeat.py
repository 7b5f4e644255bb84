"""Heartbeats: long computations report progress, and a watchdog listens for it."""

from __future__ import annotations

from collections.abc import Callable

_listener: Callable[[], None] | None = None


def on_heartbeat(listener: Callable[[], None] | None) -> None:
    """Sets the function that is called at each heartbeat of this process; None removes it."""
    global _listener
    _listener = listener


def heartbeat() -> None:
    """Call this in a long computation, each time that it has made progress."""
    if _listener is not None:
        _listener()
