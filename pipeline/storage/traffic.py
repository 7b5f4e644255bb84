"""Counts the bytes and retries of this process's store calls, for metrics."""

from __future__ import annotations

import threading
from collections import Counter

_lock = threading.Lock()
_traffic: Counter[str] = Counter()


def note_traffic(kind: str, amount: int) -> None:
    """Adds to "in" or "out" (bytes) or "retries" (calls). Thread-safe."""
    with _lock:
        _traffic[kind] += amount


def take_traffic() -> Counter[str]:
    """The counts since the last call, by kind; resets them."""
    with _lock:
        taken = Counter(_traffic)
        _traffic.clear()
    return taken
