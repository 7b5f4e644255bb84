"""Fixtures of the tests of mixes."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.mix.boxed import make_boxed


@pytest.fixture(scope="session")
def boxed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An output whose originals have boxes. Each test mixes into a folder of its own."""
    folder = tmp_path_factory.mktemp("boxed")
    make_boxed(folder)
    return folder
