"""Joins what workers report about the same outage of a store: one line at its start and its end."""

from __future__ import annotations

import time

from pipeline.process.outage import outage_text


class StoreOutages:
    """The outages that workers have reported, and the lines that the driver has not logged yet.

    Every worker that waits for a store reports it. The first report begins the outage, and the
    first worker that got an answer ends it for all.
    """

    def __init__(self) -> None:
        self.since: dict[str, float] = {}  # by store, on the clock of the journal's process
        self.lines: list[str] = []

    def report(self, store: str, reason: str | None, seconds: float) -> None:
        """A worker has waited for the store for so many seconds; reason None: it waits no more."""
        now = time.monotonic()
        if reason is None:
            since = self.since.pop(store, None)
            if since is not None:
                self.lines.append(outage_text(store, None, now - since))
        elif store not in self.since:
            self.since[store] = now - seconds
            self.lines.append(outage_text(store, reason, seconds))

    def take_lines(self) -> list[str]:
        """The lines since the last call."""
        taken, self.lines = self.lines, []
        return taken
