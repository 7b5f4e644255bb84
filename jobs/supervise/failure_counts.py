"""Counts consecutive failures that end a run: workers that do not start, parts not stored."""

from __future__ import annotations

import time
from collections import Counter
from dataclasses import dataclass, field

# A run ends after this many parts in a row that could not be stored, over at least this many
# seconds. The retry worker, which is slow, can recompute the parts lost while a store was
# unreachable for minutes; but with expired credentials or a full disk every part would be lost.
MAX_OUTAGE_S = 300.0
MIN_PARTS = 3
CRASHED = "its process died while it loaded the model"


@dataclass
class StorageFailures:
    """The parts in a row that could not be stored, by any worker. The journal holds it."""

    number: int = 0
    since: float = 0.0
    given_up: str | None = None  # why the run has to end

    def stored(self) -> None:
        """A part was stored."""
        self.number = 0

    def refused(self, reason: str) -> None:
        """A part could not be stored, after all retries of the storage call."""
        now = time.monotonic()
        if not self.number:
            self.since = now
        self.number += 1
        outage_s = now - self.since
        if self.number >= MIN_PARTS and outage_s >= MAX_OUTAGE_S:
            self.given_up = f"no part could be stored for {outage_s:.0f} s: {reason}"


@dataclass
class StartFailures:
    """How often each worker has failed to start since its last success. The journal holds it."""

    retries: int  # of a worker that did not start
    open: dict[str, tuple[str, str]] = field(default_factory=dict)  # worker -> pool, host
    failures: Counter[str] = field(default_factory=Counter)  # in a row, by worker
    last: str | None = None  # the latest failure in words
    given_up: str | None = None  # why the run has to end: a worker has no retries left

    def begin(self, worker: str, pool: str, host: str) -> None:
        """A process starts to load the worker's model; if another start is open, it crashed."""
        if worker in self.open:
            self.fail(worker, CRASHED)
        self.open[worker] = (pool, host)

    def fail(self, worker: str, reason: str) -> None:
        """The start raised, or its process died."""
        pool, host = self.open.pop(worker)
        self.failures[worker] += 1
        tries = self.failures[worker]
        times = f", {tries} times in a row" if tries > 1 else ""
        self.last = f"a worker of the pool {pool} cannot start on {host}{times}: {reason}"
        if tries > self.retries:
            self.given_up = self.given_up or self.last

    def done(self, worker: str) -> None:
        """The worker has started."""
        self.open.pop(worker, None)
        self.failures.pop(worker, None)
