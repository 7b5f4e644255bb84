"""The README agrees with the code where this can be checked."""

from __future__ import annotations

from pathlib import Path

from pipeline.records.rows import COLUMNS

ROOT = Path(__file__).resolve().parents[1]


def test_readme_lists_every_column() -> None:
    """The README's table of columns equals the schema: names, types, meanings and order."""
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    lines = [f"| `{name}` | {kind} | {meaning} |" for name, kind, _, meaning in COLUMNS]
    assert "\n".join(lines) in text


def test_readme_starts_with_the_two_commands() -> None:
    """The first screen names the commands that a newcomer needs."""
    screen = (ROOT / "README.md").read_text(encoding="utf-8").splitlines()[:25]
    assert any("make demo" in line for line in screen)
    assert any("make test" in line for line in screen)
