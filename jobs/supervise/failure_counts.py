"""Failures in a row that end a run: workers that do not start, parts that are not stored."""

from __future__ import annotations

import time
from collections import Counter
from dataclasses import dataclass, field

# Lost parts run again alone, which is slow: a store that is away for minutes is worth that, one
# whose credentials have expired or whose disk is full is not.
AWAY_S = 300.0
AT_LEAST = 3  # parts in a row, however long one takes
CRASHED = "its process died while it loaded the model"


@dataclass
class StorageFailures:
    """The parts in a row that could not be stored, by any worker. Kept by the journal."""

    number: int = 0
    since: float = 0.0
    given_up: str | None = None

    def stored(self) -> None:
        """A part was."""
        self.number = 0

    def refused(self, reason: str) -> None:
        """A part was not, after all the attempts that a call of storage makes."""
        now = time.monotonic()
        if not self.number:
            self.since = now
        self.number += 1
        away_s = now - self.since
        if self.number >= AT_LEAST and away_s >= AWAY_S:
            self.given_up = f"no part could be stored for {away_s:.0f} s: {reason}"


@dataclass
class StartFailures:
    """How often each worker failed to start since it last did. Kept by the journal."""

    retries: int  # of a worker that did not start
    open: dict[str, tuple[str, str]] = field(default_factory=dict)  # worker -> pool, host
    failures: Counter[str] = field(default_factory=Counter)  # in a row, by worker
    last: str | None = None  # the latest failure in words
    given_up: str | None = None  # the failure that was one too many

    def begin(self, worker: str, pool: str, host: str) -> None:
        """A process loads what the worker needs; an earlier one that did not get through died."""
        if worker in self.open:
            self.fail(worker, CRASHED)
        self.open[worker] = (pool, host)

    def fail(self, worker: str, reason: str) -> None:
        """It raised, or died."""
        pool, host = self.open.pop(worker)
        self.failures[worker] += 1
        tries = self.failures[worker]
        times = f", {tries} times in a row" if tries > 1 else ""
        self.last = f"a worker of the pool {pool} cannot start on {host}{times}: {reason}"
        if tries > self.retries:
            self.given_up = self.given_up or self.last

    def done(self, worker: str) -> None:
        """It works."""
        self.open.pop(worker, None)
        self.failures.pop(worker, None)
