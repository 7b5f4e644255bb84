"""The benchmark of dtypes counts every edit in both, and writes what it prints."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from infra.benchmarks import precision


def test_each_edit_is_made_in_both_dtypes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Two batches, one of them short; few steps, so that few edits succeed."""
    monkeypatch.setattr(precision, "BATCH", 2)
    out = tmp_path / "precision.json"
    few = ["method.steps=4", "method.mask.num_noises=1"]
    monkeypatch.setattr(sys, "argv", ["precision", "--edits", "3", "--out", str(out), *few])
    precision.main()
    printed, report = json.loads(capsys.readouterr().out), json.loads(out.read_text())
    assert {name: report[name] for name in printed} == printed
    assert report["paired"]["edits"] == 3
    assert report["method"]["steps"] == 4
    assert min(report["cpu_s_an_edit"].values()) > 0
    assert set(report["confirmed_share"]) == {"float32", "bfloat16"}
