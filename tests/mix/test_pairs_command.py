"""``overpaint pairs``: its counts, its splits, and what it refuses."""

from __future__ import annotations

from pathlib import Path

import pytest

from jobs.cli import main
from tests.mix.boxed import make_boxed


def test_pairs_are_written_verified_and_resumed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """All edits are taken, in every split, and the same command again writes nothing new."""
    make_boxed(tmp_path)
    command = ["pairs", f"{tmp_path}/pairs", "--edited", f"{tmp_path}/out"]
    command.append("splits={train: 0.4, test: 0.6}")
    assert main([*command, "--dry-run"]) == 0
    assert not (tmp_path / "pairs").exists()
    assert main(command) == 0
    printed = capsys.readouterr().out
    assert "edits left out" not in printed
    assert "warning" not in printed
    assert {path.name for path in (tmp_path / "pairs").iterdir()} == {
        *("README.md", "manifest.json", "_mix", "train", "test")
    }
    assert main(["verify", f"{tmp_path}/pairs"]) == 0
    assert "14 edited" in capsys.readouterr().out
    times = {path: path.stat().st_mtime_ns for path in (tmp_path / "pairs").rglob("*.parquet")}
    assert main(command) == 0
    assert {path: path.stat().st_mtime_ns for path in times} == times


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("format=coco", "format='coco': overpaint pairs writes pairs; overpaint mix the others"),
        ("ratio=2", "ratio=2: pairs have no originals; leave it out"),
        ("splits={a: 1, b: 1}", "must be above 0 and add up to 1"),
        ("formats=coco", "did you mean 'format'?"),
    ],
)
def test_settings_that_do_not_suit_pairs_are_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], override: str, message: str
) -> None:
    """With exit code 2, and a line that says what is allowed."""
    make_boxed(tmp_path, shards=1, images=1)
    command = ["pairs", f"{tmp_path}/pairs", "--edited", f"{tmp_path}/out", override]
    assert main(command) == 2
    assert message in capsys.readouterr().err
