"""Small networks with random weights, and the command run on the tiny model."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from jobs.cli import main
from tests.tiny_scorers import make_tiny_scorers

Evaluate = Callable[..., dict[str, Any]]


@pytest.fixture(scope="session")
def section(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The configuration of scorers with small random weights."""
    return make_tiny_scorers(tmp_path_factory.mktemp("scorers"))


@pytest.fixture
def evaluate(tiny_model_folder: Path, tmp_path: Path) -> Evaluate:
    """Runs the command on the tiny model without Ray; returns the JSON that it has written."""

    def run(benchmark: str, data: Path, *more: str, code: int = 0) -> dict[str, Any]:
        command = [
            *("evaluate", benchmark, "--plain", "--data", str(data), "--out", str(tmp_path / "o")),
            *("--config", "demo", "model.dtype=float32"),
            *(f"model.path={tiny_model_folder}", "method.steps=2", "method.mask.num_noises=1"),
        ]
        assert main([*command, *more]) == code
        return json.loads((tmp_path / "o/evaluation.json").read_text()) if code == 0 else {}

    return run


def score_overrides(section: dict[str, Any], *names: str) -> list[str]:
    """The overrides that turn scorers on."""
    return [f"scores.{name}={json.dumps(section[name])}" for name in names]
