"""Outputs that an earlier version wrote stay readable by every command that reads outputs."""

from __future__ import annotations

import shutil
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from jobs.cli import main

STORED = Path(__file__).resolve().parents[1] / "outputs/v0_1_0"


@pytest.fixture
def old(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the stored output, as the current folder, that says where its input is now."""
    shutil.copytree(STORED, tmp_path / "old")
    inputs = tmp_path / "old/out/_run/inputs.json"
    inputs.write_text(inputs.read_text().replace("/data/old/", f"{tmp_path}/old/"))
    monkeypatch.chdir(tmp_path / "old")
    return tmp_path / "old"


def test_status_counts_its_shards_and_edits(old: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Three shards, all of them done; one edit failed."""
    assert main(["status", "out"]) == 0
    assert "3 shards: 3 done, 0 staged, 0 to do; 12 edits" in capsys.readouterr().out


def test_verify_finds_no_problem(old: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """What 0.1.0 wrote is checked as far as it can be checked."""
    assert main(["verify", "out", "--inputs"]) == 0
    said = capsys.readouterr().out
    assert said.count("the input is not checked: written by an older version") == 3
    assert main(["verify", "out"]) == 0
    assert "12 rows: 3 edited, 1 failed, 7 rejected, 1 unchanged" in capsys.readouterr().out


def test_report_shows_its_images(old: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The page is drawn from the old config, whose key report.picture_size has a new name."""
    assert "picture_size" in (old / "out/_run/config.yaml").read_text()
    assert main(["report", "out"]) == 0
    assert "12 edits, 11 with images" in capsys.readouterr().out
    assert "NotAPicture" in (old / "out/_run/report.html").read_text()


def test_refilter_publishes_it_anew(old: Path) -> None:
    """The rejected edits come back, with their images."""
    assert main(["refilter", "out", "--clear"]) == 0
    rows = [
        row
        for path in sorted((old / "out").glob("*.parquet"))
        for row in pq.read_table(path).to_pylist()
    ]
    assert [row["status"] for row in rows].count("edited") == 10
    assert main(["verify", "out"]) == 0


def test_mix_takes_its_originals_and_edits(old: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Ten originals that can be read, and the three edits that its filter let through."""
    assert main(["mix", "mixed", "--edited", "out"]) == 0
    assert (old / "mixed/train/00000.tar").is_file()
    capsys.readouterr()
    assert main(["mix", "mixed", "--edited", "out", "--dry-run"]) == 0
    line = next(text for text in capsys.readouterr().out.splitlines() if "train" in text)
    assert [word for word in line.split() if word.isdigit()][:2] == ["10", "3"]
