"""Without ``-v`` no line of Ray's comes through; with it, all do. No Ray is started here."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any
from unittest import mock

import pytest
import ray

from jobs.edit.cluster import connect
from jobs.edit.ray_job import LOG_LEVEL, DriverJob
from pipeline.config.load import parse_config

CONFIG = parse_config({"input": {"shards": "x"}, "output": {"path": "y"}, "run": {"num_cpus": 1}})
OF_LEVEL = "[2026-11-30 15:16:07,017 I 9270 9270] logging.cc:303: Set ray log level from ... to 3\n"


@pytest.fixture(autouse=True)
def restored(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(LOG_LEVEL, raising=False)
    monkeypatch.setattr(ray._private.worker, "_worker_logs_enabled", True)


def connected(verbose: bool, core_worker: Callable[[], None]) -> None:
    """Connects to a Ray that only makes its core worker."""

    def init(*, job_config: DriverJob, **options: Any) -> None:
        assert LOG_LEVEL not in os.environ, "Ray's processes, which it starts first, are as ever"
        job_config._serialize()
        core_worker()

    with mock.patch("ray.init", init):
        connect(CONFIG, verbose)


@pytest.mark.parametrize("verbose", [False, True])
def test_the_core_worker_says_its_errors_only_with_v(
    capfd: pytest.CaptureFixture[str], verbose: bool
) -> None:
    """Its level is that of the environment while it starts, which it tells; both are undone."""

    def core_worker() -> None:
        level = os.environ.get(LOG_LEVEL)
        assert level == (None if verbose else "fatal")
        os.write(2, OF_LEVEL.encode() if level else b"an error\n")
        os.write(2, b"something else\n")

    connected(verbose, core_worker)
    assert LOG_LEVEL not in os.environ
    os.write(2, b"later\n")
    expected = ["something else", "later"]
    assert capfd.readouterr().err.splitlines() == (["an error"] if verbose else []) + expected


def test_a_level_that_the_user_has_set_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    """Here Ray's processes have it too."""
    monkeypatch.setenv(LOG_LEVEL, "debug")
    job = DriverJob(verbose=False)
    job._serialize()
    assert os.environ[LOG_LEVEL] == "debug"
    job.started()
    assert os.environ[LOG_LEVEL] == "debug"


def test_a_failed_start_restores_stderr(capfd: pytest.CaptureFixture[str]) -> None:
    """What was said until then is said."""

    def core_worker() -> None:
        os.write(2, b"no raylet\n")
        raise RuntimeError("no raylet")

    with pytest.raises(RuntimeError, match="no raylet"):
        connected(False, core_worker)
    os.write(2, b"later\n")
    assert capfd.readouterr().err == "no raylet\nlater\n"


def test_ray_starts_where_stderr_cannot_be_written() -> None:
    """A full disk below the log of a run costs its lines."""
    kept, full = os.dup(2), os.open("/dev/full", os.O_WRONLY)
    os.dup2(full, 2)

    def core_worker() -> None:
        os.write(2, b"lost\n")

    try:
        connected(False, core_worker)
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(full)


@pytest.mark.parametrize("verbose", [False, True])
def test_what_ray_pushes_to_drivers_is_shown_only_with_v(
    capsys: pytest.CaptureFixture[str], verbose: bool
) -> None:
    """Under memory pressure that is a line for each task that was ended."""
    connected(verbose, lambda: None)
    line = f"Task f of a driver with verbose={verbose} failed"  # Ray prints a line only once
    message = {"lines": [line], "pid": "raylet", "is_err": False}
    ray._private.worker.print_to_stdstream(message, ignore_prefix=False)
    assert (line in capsys.readouterr().out) == verbose
