"""A hub on 127.0.0.1 and a model to change, for the tests of models."""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.models.small_hub import SmallHub, serving, use_hub


@pytest.fixture
def small_hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[SmallHub]:
    """An empty hub that the client of this process asks; the cache is ``tmp_path / "hub"``.

    Backoff waits milliseconds.
    """
    sleep = time.sleep
    monkeypatch.setattr("time.sleep", lambda seconds: sleep(min(seconds, 0.005)))
    with serving() as hub:
        use_hub(monkeypatch, hub, tmp_path / "hub")
        yield hub


@pytest.fixture
def folder(tiny_model_folder: Path, tmp_path: Path) -> Path:
    """A copy of the tiny model that a test may change."""
    return Path(shutil.copytree(tiny_model_folder, tmp_path / "model"))
