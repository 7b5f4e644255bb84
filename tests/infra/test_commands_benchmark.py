"""The benchmark of commands over published shards, with a small one."""

from __future__ import annotations

from pathlib import Path

import pytest

from infra.benchmarks.commands import draw, measure
from infra.benchmarks.startup import ROOT


def test_a_command_is_sampled_while_it_works(tmp_path: Path) -> None:
    """Its shard holds what passes through; memory is above that of the start."""
    sizes = draw(tmp_path, 4, 300_000)
    assert sizes["out"] > 2 * 300_000
    assert sizes["in"] > 300_000
    found = measure(ROOT, "reopen", tmp_path)
    assert found["idle"] > 10_000_000
    assert found["above_idle"] >= 0
    assert found["seconds"] > 0
    assert list((tmp_path / "out/_parts/00000").iterdir())


def test_a_command_that_fails_is_an_error(tmp_path: Path) -> None:
    """And no figure."""
    with pytest.raises(RuntimeError, match="reopen failed"):
        measure(ROOT, "reopen", tmp_path)
