"""A journal that asks its book without Ray."""

from __future__ import annotations

from typing import Any

from jobs.supervise.journal import Journal, _Book


class LocalJournal(Journal):
    """As the driver and its workers see it, in one process."""

    def __init__(self) -> None:
        self.book = _Book(0)

    def _ask(self, method: str, *arguments: object) -> Any:
        return getattr(self.book, method)(*arguments)

    def end(self, shard: str, part: int | None) -> None:
        self.book.end((shard, part))
