"""What is shown comes from one function, so that no text of the data moves the cursor."""

from __future__ import annotations

import ast
import logging
from collections.abc import Iterator
from pathlib import Path

import pytest

from jobs import logs
from jobs.terminal import show, show_log, show_styled, show_table

ROOT = Path(__file__).resolve().parents[2]
SHOWS = ("jobs/terminal.py",)
# They print figures of their own.
EXPERIMENTS = ("jobs/benchmark/", "jobs/train_demo/", "jobs/augmentation/")
HOSTILE = "\x1b[2Ja[/x] [bold]b[/bold] :smile: s3://k:hunter2@b\x07\n\u202ec\udcff"
SHOWN = r"\x1b[2Ja[/x] [bold]b[/bold] :smile: s3://k:...@b\x07\x0a\u202ec\udcff"


def prints(path: Path) -> Iterator[str]:
    """What a file calls to print: the builtin, consoles and tables of rich's, streams."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Call):
            name = ast.unparse(node.func)
            is_print = name in ("print", "Console", "Table", "rich.print", "pprint.pprint")
            if is_print or name.endswith((".stdout.write", ".stderr.write", "print_exc")):
                yield f"{path.relative_to(ROOT)}:{node.lineno}: {name}"


def test_nothing_else_prints() -> None:
    """Neither a command nor a worker calls print or rich by itself."""
    files = [
        path
        for path in sorted((ROOT / "jobs").rglob("*.py"))
        if not str(path.relative_to(ROOT)).startswith((*SHOWS, *EXPERIMENTS))
    ]
    assert len(files) > 30
    found = [line for path in files for line in prints(path)]
    found += [
        line
        for path in sorted((ROOT / "pipeline").rglob("*.py"))
        if path.name != "reference.py"  # a tool of the checkout
        for line in prints(path)
    ]
    assert found == []


def test_lines_and_tables_are_escaped(capsys: pytest.CaptureFixture[str]) -> None:
    """Markup and emoji codes of rich's are no markup here."""
    show(HOSTILE)
    show_styled(HOSTILE, "yellow")
    assert capsys.readouterr().out == f"{SHOWN}\n" * 2
    show_table(("a",), [(HOSTILE,)], total=(HOSTILE,))
    printed = capsys.readouterr().out
    assert "\x1b" not in printed
    assert "[/x]" in printed
    assert "[bold]" in printed


def test_log_lines_are_escaped(capsys: pytest.CaptureFixture[str]) -> None:
    """Ours, and those of libraries, in both formats; of a job on a cluster colors are left out."""
    root = logging.getLogger()
    before, level = root.handlers[:], root.level
    root.handlers = []
    try:
        logs.use_format("text")
        logs.tell(HOSTILE.replace("\n", ""))
        assert capsys.readouterr().err == SHOWN.replace(r"\x0a", "") + "\n"
        formatter = logging.lastResort.formatter if logging.lastResort else None
        assert formatter is not None
        record = logging.LogRecord("any", logging.WARNING, "", 0, HOSTILE, None, None)
        assert formatter.format(record) == SHOWN.replace(r"\x0a", "\n")
        logs.use_format("json")
        logging.getLogger("any").warning(HOSTILE)
        printed = capsys.readouterr().err
        assert printed.count("\n") == 1
        assert not {"\x1b", "\x07", "\u202e", "\udcff"} & set(printed)
        assert "hunter2" not in printed
    finally:
        logs.use_format("text")
        root.handlers, root.level = before, level
    show_log("\x1b[36m(pid=1)\x1b[0m a\r\nb\x1b]0;title\x07")
    assert capsys.readouterr().out == "(pid=1) a\r\nb\\x1b]0;title\\x07"
