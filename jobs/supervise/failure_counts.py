"""A store that takes no part any more: the run ends, instead of computing what is then lost."""

from __future__ import annotations

import time
from dataclasses import dataclass

# Lost parts run again alone, which is slow: a store that is away for minutes is worth that, one
# whose credentials have expired or whose disk is full is not.
AWAY_S = 300.0
AT_LEAST = 3  # parts in a row, however long one takes


@dataclass
class RefusalBook:
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
