"""The README's promises that can be read off the code are compared with it."""

from __future__ import annotations

from pathlib import Path

from pipeline.records.rows import COLUMNS

ROOT = Path(__file__).resolve().parents[1]


def test_readme_lists_every_column() -> None:
    """The table of columns says of each what the schema says, in the schema's order."""
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    lines = [f"| `{name}` | {kind} | {meaning} |" for name, kind, _, meaning in COLUMNS]
    assert "\n".join(lines) in text


def test_readme_begins_with_the_two_commands() -> None:
    """What a newcomer needs stands on the first screen."""
    screen = (ROOT / "README.md").read_text(encoding="utf-8").splitlines()[:25]
    assert any("make demo" in line for line in screen)
    assert any("make test" in line for line in screen)
