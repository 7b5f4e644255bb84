"""Notices: what a worker finds and a user should read. Its own log is on its node."""

from __future__ import annotations

from collections.abc import Callable

_listener: Callable[[str], None] | None = None


def on_notice(listener: Callable[[str], None] | None) -> None:
    """Sets the function that takes each notice of this process; None removes it."""
    global _listener
    _listener = listener


def notice(line: str) -> None:
    """Passes a line on to whoever started this worker."""
    if _listener is not None:
        _listener(line)
