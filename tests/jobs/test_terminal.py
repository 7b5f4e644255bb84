"""What is shown comes from one function, so that no text of the data moves the cursor."""

from __future__ import annotations

import ast
import contextlib
import errno
import io
import logging
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TextIO
from unittest.mock import Mock

import pytest

from jobs import logs
from jobs.terminal import Output, show, show_log, show_styled, show_table
from tests.samples import raw_sample, write_shard

ROOT = Path(__file__).resolve().parents[2]
SHOWS = ("jobs/terminal.py",)
# They print figures of their own.
EXPERIMENTS = ("jobs/benchmark/", "jobs/train_demo/", "jobs/augmentation/")
OLD_OUTPUT = ROOT / "tests/outputs/v0_1_0/out"
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


@pytest.fixture
def full() -> Iterator[TextIO]:
    """A file on a full disk."""
    stream = open("/dev/full", "w", encoding="utf-8")  # noqa: SIM115 - a failing close is dropped
    yield stream
    with contextlib.suppress(OSError):
        stream.close()


def closed_pipe() -> TextIO:
    """A pipe whose reader has left."""
    reader, writer = os.pipe()
    os.close(reader)
    return os.fdopen(writer, "w", encoding="utf-8")


def test_a_line_that_cannot_be_written_is_all_that_is_lost(
    full: TextIO, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever shows it; rich by itself would end the process where a reader has left."""
    monkeypatch.setattr(Output, "lost", None)  # for the tests after this one
    for name, stream in (("stdout", full), ("stderr", full), ("stdout", closed_pipe())):
        monkeypatch.setattr(sys, name, stream)
        show("a" * 10_000)
        show_log("b")
        show_styled("c", "bold")
        show_table(["d"], [["e"]])
        logs.tell("f")


def test_what_a_log_writes_after_the_disk_was_full_is_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only the lines of that time are lost."""
    monkeypatch.setattr(Output, "lost", None)
    with (tmp_path / "log").open("w") as log:
        monkeypatch.setattr(sys, "stdout", log)
        kept = log.flush
        monkeypatch.setattr(log, "flush", Mock(side_effect=OSError(errno.ENOSPC, "full")))
        show("lost or late")
        monkeypatch.setattr(log, "flush", kept)
        show("after")
    assert (tmp_path / "log").read_text().endswith("after\n")


def test_what_the_encoding_of_a_terminal_lacks_is_escaped(monkeypatch: pytest.MonkeyPatch) -> None:
    """Names and captions are of any script; a table's lines are those that the terminal has."""
    written = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(written, encoding="ascii"))
    show("ü, 日")
    show_styled("é")
    show_table(["ñ"], [["ß"]])
    lines = written.getvalue().decode("ascii").splitlines()
    assert lines[:2] == [r"\xfc, \u65e5", r"\xe9"]
    assert any(r"\xdf" in line for line in lines)


@pytest.mark.parametrize(
    ("command", "code"),
    [
        ("status {0} >/dev/full", 1),
        ("verify {0} >/dev/full", 1),
        ("edit demo input.shards={1}/in output.path={1}/out --dry-run >/dev/full", 1),
        ("status {0} 2>/dev/full", 0),
        ("status {0} | true", 0),
        ("edit demo input.shards={1}/in output.path={1}/out --dry-run | head -1", 0),
        ("status {0} >&-", 0),
    ],
)
def test_a_command_whose_text_is_lost_says_so(command: str, code: int, tmp_path: Path) -> None:
    """If its text is all that it does, and unless its reader has left; never by a traceback."""
    (tmp_path / "in").mkdir()
    write_shard(tmp_path / "in/0.tar", [raw_sample("a")])
    asked = command.format(OLD_OUTPUT, tmp_path)
    line = f"{sys.executable} -m jobs.cli {asked}; exit ${{PIPESTATUS[0]}}"
    env = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        ["bash", "-c", line], cwd=ROOT, env=env, capture_output=True, text=True, check=False
    )
    assert done.returncode == code, done.stderr
    assert "Traceback" not in done.stderr
    assert ("lines of it are lost" in done.stderr) is (code == 1)
