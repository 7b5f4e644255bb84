"""What a worker finds reaches the driver's log: the worker's own is on its node."""

from __future__ import annotations

from pathlib import Path

import pytest

from jobs.supervise.starts import tell_reports
from jobs.supervise.watchdog import Guard
from pipeline.steps.staged_parts import read_staged
from pipeline.storage.layout import StagedPart
from pipeline.storage.store import Store
from tests.jobs.local_journal import LocalJournal


def test_a_damaged_part_that_a_worker_finds_is_said_once_by_the_driver(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """It is deleted, so nothing else would tell of it."""
    store, part = Store(str(tmp_path)), StagedPart("a", 0, 2)
    store.put(part.name, b"no part")
    journal = LocalJournal()
    with Guard(journal, 60.0).watch("a", 1, "commit"):
        assert read_staged(store, part) is None
    capsys.readouterr()
    tell_reports(journal)
    said = capsys.readouterr().err
    assert f"{part.name}: damaged: " in said
    assert said.count("deleted, to be computed again") == 1
    tell_reports(journal)
    assert capsys.readouterr().err == ""
