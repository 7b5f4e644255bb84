"""A wave that has lost nodes and does nothing is ended. No Ray is started."""

from __future__ import annotations

import gc
import itertools
import time
import weakref
from pathlib import Path
from typing import Any
from unittest import mock

import pytest

from jobs.edit import lost_nodes, waves
from jobs.edit.lost_nodes import LostNodes, patience_s
from jobs.supervise.main_thread import MainThread
from pipeline.sizing.pools import Node
from tests.jobs.edit.test_waves import AUTO, SIX, TWO, sizes_of, unknown

WAIT_S = 0.2  # until a wave is stuck


@pytest.fixture(autouse=True)
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """A wave is stuck after a fifth of a second."""
    monkeypatch.setattr(lost_nodes, "patience_s", lambda sizes: WAIT_S)
    monkeypatch.setattr(lost_nodes, "POLL_S", 0.02)


def followed(
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    nodes: Any,
    last_part_at: Any,
    lasts_s: float = 0.6,
    **sections: Any,
) -> bool:
    """Whether a wave, begun with two cores, is ended while these nodes are there."""
    monkeypatch.setattr(lost_nodes, "cluster_nodes", nodes)
    progress = unknown()
    type(progress).last_part_at = mock.PropertyMock(side_effect=last_part_at)
    sizes = sizes_of(folder, **({"stages": AUTO} | sections))
    start = time.monotonic()
    with MainThread() as main_thread, LostNodes(sizes, progress, main_thread) as watch:
        time.sleep(lasts_s)
    assert watch.stuck == (time.monotonic() - start < lasts_s)
    return watch.stuck


def long_ago() -> float:
    return 0.0


def test_a_wave_without_parts_ends_once_other_pools_would_fit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The main thread is interrupted where it waits, and one line says why."""
    assert followed(tmp_path, monkeypatch, lambda: SIX, long_ago, lasts_s=30)
    assert capsys.readouterr().err.count("beginning anew with what is there") == 1


def test_a_wave_whose_parts_come_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ray has placed an actor of each pool; the next wave has pools for the nodes."""
    assert not followed(tmp_path, monkeypatch, lambda: SIX, time.monotonic)


def test_the_same_nodes_are_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A slow part is the watchdog's matter."""
    assert not followed(tmp_path, monkeypatch, lambda: TWO, long_ago)


def test_other_nodes_are_planned_for_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A plan looks at each shard that is left; a wave may go on for long with nodes lost."""
    planned = mock.Mock(side_effect=waves.resized)
    monkeypatch.setattr(lost_nodes, "resized", planned)
    assert not followed(tmp_path, monkeypatch, lambda: SIX, time.monotonic)
    assert planned.call_count == 1


def test_pools_that_would_not_fit_wait_for_their_nodes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Beginning anew would help nothing; so it is with sizes that the config sets."""
    assert not followed(tmp_path, monkeypatch, lambda: [Node(0.25)], long_ago)
    fixed = {"decode": {"actors": 1}}
    assert not followed(tmp_path, monkeypatch, lambda: SIX, long_ago, stages=fixed)


def test_nodes_that_come_back_in_time_change_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Lost at every other look: each time is counted anew."""
    found = itertools.cycle([SIX, TWO])
    assert not followed(tmp_path, monkeypatch, lambda: next(found), long_ago)


def test_garbage_is_collected_while_no_part_is_done(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A handle of an actor in a cycle of references is dropped, and Ray frees the actor's place."""
    monkeypatch.setattr(lost_nodes, "COLLECT_S", 0.05)
    monkeypatch.setattr(lost_nodes, "cluster_nodes", lambda: TWO)

    class Handle:
        pass

    handle, progress = Handle(), unknown()
    handle.itself = handle  # type: ignore[attr-defined]
    dropped, progress.last_part_at = weakref.ref(handle), 0.0
    gc.disable()
    try:
        with MainThread() as main_thread, LostNodes(sizes_of(tmp_path), progress, main_thread):
            del handle
            deadline = time.monotonic() + 10
            while dropped() is not None and time.monotonic() < deadline:
                time.sleep(0.01)
        assert dropped() is None
    finally:
        gc.enable()


def test_another_error_is_not_taken_for_a_stuck_wave(tmp_path: Path) -> None:
    """It passes through."""
    sizes = sizes_of(tmp_path, stages=AUTO)
    with MainThread() as main_thread:
        watch = LostNodes(sizes, unknown(), main_thread)
        with pytest.raises(OSError, match="the store"), watch:
            raise OSError("the store")
    assert not watch.stuck


@pytest.mark.parametrize(
    ("run", "wait_s"),
    [
        ({}, 3600.0),  # nobody has measured a part, so one may take an hour
        ({"part_timeout_s": 20}, 600.0),  # run.cluster_wait_s
        ({"part_timeout_s": 20, "cluster_wait_s": 5}, 20.0),
        ({"part_timeout_s": 20, "cluster_wait_s": 50}, 50.0),
    ],
)
def test_patience_is_that_for_nodes_and_for_a_part(
    run: dict[str, Any], wait_s: float, tmp_path: Path
) -> None:
    """Whichever is longer."""
    sizes = sizes_of(tmp_path, run={"layout": "fused"} | run, plan={"calibrate": "never"})
    unmeasured = mock.Mock(asked=sizes.asked)
    unmeasured.expected.silence_s = 3600.0
    assert patience_s(unmeasured) == wait_s
