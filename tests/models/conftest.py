"""A hub on 127.0.0.1 for the tests of models."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.models.small_hub import SmallHub, serving, use_hub


@pytest.fixture
def small_hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[SmallHub]:
    """An empty hub that the client of this process asks; the cache is ``tmp_path / "hub"``."""
    with serving() as hub:
        use_hub(monkeypatch, hub, tmp_path / "hub")
        yield hub
