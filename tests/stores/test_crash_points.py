"""A run killed before or after any storage call ends with the same bytes when it is run again."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.slow
@pytest.mark.parametrize("every", [5, pytest.param(1, marks=pytest.mark.sweep)])
def test_an_input_that_is_replaced_after_a_kill_is_never_mixed(every: int, tmp_path: Path) -> None:
    """At every storage call: each shard is of one content, and verify finds nothing."""
    runner = [sys.executable, "-m", "tests.stores.crash_runner", str(tmp_path)]
    command = [*runner, "edit, then another input", str(every)]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=500)
    assert result.returncode == 0, result.stderr[-4000:]
    found = json.loads(result.stdout.splitlines()[-1])
    assert found["bad"] == []
    assert len(found["points"]) > 60


@pytest.mark.slow
@pytest.mark.parametrize(
    ("mode", "operations"),
    [
        # stat looks for objects that are not there yet and raises, so there is no "after stat"
        ("edit", {"get", "put", "put_if_absent", "list", "delete", "sweep"}),
        pytest.param(
            *("edit beside", {"get", "put", "put_if_absent", "list", "delete", "sweep"}),
            marks=pytest.mark.sweep,
        ),
        ("retry", {"get", "put", "put_if_absent", "list", "delete", "sweep"}),
        pytest.param(*("retry, then edit", {"put_if_absent", "delete"}), marks=pytest.mark.sweep),
        ("refilter", {"get", "put", "put_if_absent", "list", "delete"}),
    ],
)
def test_a_run_killed_at_any_storage_call_is_completed_by_the_next(
    mode: str, operations: set[str], tmp_path: Path
) -> None:
    """The next run ends with the bytes of an undisturbed one, without leftover objects."""
    command = [sys.executable, "-m", "tests.stores.crash_runner", str(tmp_path), mode]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=500)
    assert result.returncode == 0, result.stderr[-4000:]
    found = json.loads(result.stdout.splitlines()[-1])
    assert found["bad"] == []
    assert len(found["points"]) > 60
    swept = {tuple(point.split(" ")[:2]) for point in found["points"]}
    assert {(when, name) for when in ("before", "after") for name in operations} <= swept
    if not mode.startswith("edit"):
        assert "before delete 0_stats.json" in found["points"]
        part = "after put_if_absent _parts/0/00001-of-00002-"
        assert any(point.startswith(part) for point in found["points"])
