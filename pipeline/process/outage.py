"""Outages of a store as this process sees them: told once when one lasts, and once at its end."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable

log = logging.getLogger(__name__)

# Retries within this time are ordinary, and nobody has to know about them.
TELL_AFTER_S = 5.0
MAX_REASON = 200  # characters

# Takes the store, why it does not answer (None: it answers again), and for how many seconds.
Listener = Callable[[str, str | None, float], None]


def on_outage(listener: Listener | None) -> None:
    """Sets the function that hears of this process's outages; None logs them."""
    global _listener
    _listener = listener or log_outage


def log_outage(store: str, reason: str | None, seconds: float) -> None:
    """Logs the beginning or the end of an outage as a warning."""
    log.warning("%s", outage_text(store, reason, seconds))


def outage_text(store: str, reason: str | None, seconds: float) -> str:
    """The beginning (with a reason) or the end of an outage, in words."""
    if reason is None:
        return f"the store {store} answers again, after {seconds:.0f} s"
    return f"the store {store} does not answer: {reason}; retrying"


def store_of(url: str) -> str:
    """The store behind a url: scheme and bucket; the whole url of a local folder."""
    scheme, separator, path = url.partition("://")
    return f"{scheme}://{path.partition('/')[0]}" if separator else url


class Outages:
    """Since when each store has answered no call of this process. Thread-safe.

    A store that answers one call of several is slow or busy, which is no outage.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._since: dict[str, float] = {}
        self._told: set[str] = set()

    def failed(self, store: str, error: BaseException) -> None:
        """A call got no answer, and will be retried."""
        now = time.monotonic()
        with self._lock:
            seconds = now - self._since.setdefault(store, now)
            if seconds < TELL_AFTER_S or store in self._told:
                return
            self._told.add(store)
        _listener(store, _reason(error), seconds)

    def answered(self, store: str) -> None:
        """A call got an answer, which may be an error such as a missing object."""
        if store not in self._since:
            return
        with self._lock:
            since = self._since.pop(store, None)
            was_told = store in self._told
            self._told.discard(store)
        if was_told and since is not None:
            _listener(store, None, time.monotonic() - since)


def _reason(error: BaseException) -> str:
    """The kind of error and the first line of its message."""
    message = str(error).strip().partition("\n")[0][:MAX_REASON].rstrip(".")
    return f"{type(error).__name__}: {message}" if message else type(error).__name__


_listener: Listener = log_outage
OUTAGES = Outages()  # of this process
