"""A /dev/shm that is too small for Ray's object store is named, with what to do."""

from __future__ import annotations

import logging
import os
from pathlib import Path
from types import SimpleNamespace

import pytest
from ray._private import services, utils

from jobs.edit.shared_memory import small_shared_memory_told
from pipeline.config.load import ConfigError


@pytest.fixture
def docker_default(monkeypatch: pytest.MonkeyPatch) -> None:
    """64 MB are free, as in a container by default."""
    monkeypatch.setattr(utils, "get_shared_memory_bytes", lambda: 64_000_000)
    monkeypatch.setattr(os, "statvfs", lambda path: SimpleNamespace(f_bavail=64, f_frsize=1e6))
    monkeypatch.setattr(logging.getLogger("ray"), "level", logging.ERROR)


def ask_ray(tmp_path: Path, size: int) -> str:
    """Where Ray would keep a store of this size."""
    return str(services.determine_plasma_store_config(size, str(tmp_path), None, None)[0])


@pytest.mark.usefixtures("docker_default")
def test_a_store_on_disk_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """In one line; Ray's own words are not shown."""
    with small_shared_memory_told():
        assert ask_ray(tmp_path, 5_000_000_000) == str(tmp_path)
    said = capsys.readouterr().err
    assert said.startswith("/dev/shm has 64 MB free, so Ray's object store is on a disk")
    assert "--shm-size" in said
    assert said.count("\n") == 1


@pytest.mark.usefixtures("docker_default")
def test_a_store_that_ray_refuses_is_an_error_in_our_words(tmp_path: Path) -> None:
    """A machine with much memory: Ray would not start."""
    refused = pytest.raises(ConfigError, match="64 MB free, too little for Ray's object store;")
    with refused, small_shared_memory_told():
        ask_ray(tmp_path, 50_000_000_000)
    with pytest.raises(ValueError, match="another"), small_shared_memory_told():
        raise ValueError("another")
