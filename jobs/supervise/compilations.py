"""Counts what a stage compiles after its actor has started: its warm-up should have met it all."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from jobs.supervise.journal import Journal
from pipeline.process.compilations import num_compilations


@contextmanager
def counting_compilations(journal: Journal, stage: str) -> Iterator[None]:
    """Around one stage on one part; tells the journal how many graphs it has compiled."""
    before = num_compilations()
    yield
    number = num_compilations() - before
    if number:
        journal.compiled(stage, number)
