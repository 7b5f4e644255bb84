"""Signs of life: a long computation says that it goes on, and whoever watches over it listens."""

from __future__ import annotations

from collections.abc import Callable

_listener: Callable[[], None] | None = None


def listen(listener: Callable[[], None] | None) -> None:
    """From now on the listener is called at each sign of life in this process; None: nobody is."""
    global _listener
    _listener = listener


def heartbeat() -> None:
    """To be called where something that takes its time has come one piece further."""
    if _listener is not None:
        _listener()
