"""How much this process has read from and written to stores: for metrics, not for accounts."""

from __future__ import annotations

import threading
from collections import Counter

_lock = threading.Lock()
_traffic: Counter[str] = Counter()


def note_traffic(kind: str, amount: int) -> None:
    """Adds to "in" or "out" (bytes) or "retries" (calls); threads may call at once."""
    with _lock:
        _traffic[kind] += amount


def take_traffic() -> Counter[str]:
    """What came together since the last call, by kind."""
    with _lock:
        taken = Counter(_traffic)
        _traffic.clear()
    return taken
