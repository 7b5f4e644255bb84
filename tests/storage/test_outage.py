"""An outage of a store is told once when it lasts, and once when it is over."""

from __future__ import annotations

import errno
import random
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from pipeline.process import outage
from pipeline.process.outage import on_outage, outage_text, store_of
from pipeline.storage import retry
from pipeline.storage.store import Store

BUSY = OSError(errno.EBUSY, "Please reduce your request rate.")


class Clock:
    """Time passes only while a call waits for its next attempt."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 0.0
        monkeypatch.setattr(time, "monotonic", lambda: self.now)
        monkeypatch.setattr(time, "sleep", self.sleep)
        monkeypatch.setattr(random, "uniform", lambda low, high: high)

    def sleep(self, seconds: float) -> None:
        self.now += seconds


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    return Clock(monkeypatch)


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    lines: list[str] = []
    monkeypatch.setattr(outage, "OUTAGES", outage.Outages())
    monkeypatch.setattr(retry, "OUTAGES", outage.OUTAGES)
    on_outage(lambda store, reason, seconds: lines.append(outage_text(store, reason, seconds)))
    yield lines
    on_outage(None)


def away_until(store: Store, clock: Clock, end_s: float) -> None:
    """The store answers no call before this time."""
    backend = store.backend
    stat = backend.stat

    def answering(name: str) -> object:
        if clock.now < end_s:
            raise BUSY
        return stat(name)

    backend.stat = answering  # type: ignore[method-assign, assignment]


def test_an_outage_has_a_line_after_some_seconds_and_one_at_its_end(
    clock: Clock, told: list[str], tmp_path: Path
) -> None:
    """However many calls met it."""
    store = Store(str(tmp_path))
    store.put("a", b"x")
    away_until(store, clock, 20.0)
    assert store.exists("a")
    first, last = told
    assert first == (
        f"the store {tmp_path} does not answer: OSError: [Errno 16] Please reduce your request "
        "rate; retrying"
    )
    assert last == f"the store {tmp_path} answers again, after 23 s"  # found at the ninth attempt
    assert store.exists("a")
    assert len(told) == 2


def test_several_calls_that_give_up_in_one_outage_are_one_line(
    clock: Clock, told: list[str], tmp_path: Path
) -> None:
    """A call ends after its last attempt; the outage does not."""
    store = Store(str(tmp_path))
    store.put("a", b"x")
    away_until(store, clock, 200.0)
    for _ in range(3):
        with pytest.raises(OSError, match="reduce your request rate"):
            store.exists("a")
    assert len(told) == 1
    clock.now = 200.0
    assert not store.exists("missing")  # an error that is an answer
    assert len(told) == 2


def test_a_short_fault_is_not_told(clock: Clock, told: list[str], tmp_path: Path) -> None:
    """Retries of a few seconds are ordinary; nor do separate short faults add up to an outage."""
    store = Store(str(tmp_path))
    store.put("a", b"x")
    for start in (0.0, 100.0, 200.0):
        clock.now = start
        away_until(store, clock, start + 1.0)
        assert store.exists("a")
    assert told == []


def test_without_a_listener_an_outage_is_a_warning(
    clock: Clock, told: list[str], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """So the driver, the local loop and every command say it; single attempts are no warnings."""
    on_outage(None)
    store = Store(str(tmp_path))
    store.put("a", b"x")
    away_until(store, clock, 24.0)
    assert store.exists("a")
    warnings = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert [line.split()[3] for line in warnings] == ["does", "answers"]


@pytest.mark.parametrize(
    ("url", "store"),
    [
        ("s3://bucket/deep/out", "s3://bucket"),
        ("gs://bucket", "gs://bucket"),
        ("/data/out", "/data/out"),
    ],
)
def test_a_store_is_named_by_its_bucket(url: str, store: str) -> None:
    """Input and output in one bucket are away together."""
    assert store_of(url) == store
