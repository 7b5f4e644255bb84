"""A journal without Ray, for one process."""

from __future__ import annotations

from typing import Any

from jobs.supervise.journal import Journal, _JournalActor


class LocalJournal(Journal):
    """Calls the journal's actor directly."""

    def __init__(self) -> None:
        self.actor = _JournalActor(0)

    def _send(self, method: str, *arguments: object) -> None:
        getattr(self.actor, method)(*arguments)

    def _ask(self, method: str, *arguments: object) -> Any:
        return getattr(self.actor, method)(*arguments)
