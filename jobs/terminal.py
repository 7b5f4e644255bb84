"""Shows lines and tables on the terminal. Nothing else prints: texts come from data, too.

What a shard's name or an error's message holds may neither move the cursor nor be read as rich's
markup (``[/x]``), and no password in a url is shown. A line that cannot be written is lost, and
nothing else: a reader such as ``head`` leaves, a terminal hangs up, the disk below a log fills, and
neither may end a run of hours or fail a worker's part.
"""

from __future__ import annotations

import errno
import os
import re
import sys
from collections.abc import Callable, Iterable, Sequence
from typing import Any, TextIO

from rich.console import Console
from rich.table import Table
from rich.text import Text

from pipeline.records.printable import printable
from pipeline.storage.credentials import redacted

READER_LEFT = (errno.EPIPE, errno.EIO)  # of a pipe, of a terminal
COLOR = re.compile(r"\x1b\[[\d;]*m")


def safe(text: str, *, keep: str = "") -> str:
    """The text as it may be shown: see ``printable`` and ``redacted``."""
    return printable(redacted(text), keep=keep)


def show(line: str = "", *, to: TextIO | None = None, lines: bool = False) -> None:
    """Prints a line.

    Args:
        line: may hold anything.
        to: default: stdout.
        lines: keep the line breaks, since they are our own.
    """
    print(safe(line, keep="\n" if lines else ""), file=Output(to or sys.stdout), flush=True)


def show_log(text: str) -> None:
    """Prints a piece of another process's log to stdout, without its colors."""
    shown = safe(COLOR.sub("", text), keep="\n\r\t")
    print(shown, end="", file=Output(sys.stdout), flush=True)


def show_styled(line: str, style: str = "") -> None:
    """Prints a line to stdout in a style of rich's."""
    console().print(Text(safe(line), style=style), soft_wrap=True)


def show_table(
    columns: Sequence[str],
    rows: Iterable[Sequence[str]],
    *,
    title: str | None = None,
    total: Sequence[str] | None = None,
) -> None:
    """Prints a table to stdout; cells may hold anything. ``total`` is a last row, in bold."""
    table = Table(*columns, title=title)
    for row in rows:
        table.add_row(*(Text(safe(cell)) for cell in row))
    if total is not None:
        table.add_row(*(Text(safe(cell)) for cell in total), style="bold")
    console().print(table)


def console(*, stderr: bool = False) -> Console:
    """A console of rich's that reads no markup and no emoji codes."""
    stream: Any = Output(sys.stderr if stderr else sys.stdout)
    return Console(file=stream, markup=False, emoji=False, highlight=False)


class Output:
    """stdout or stderr, without the errors of writing to it."""

    lost: OSError | None = None  # the last error of this process's stdout, unless its reader left

    def __init__(self, stream: TextIO | None) -> None:
        """None: the process has no such stream, and nothing is written."""
        self.stream = stream

    def write(self, text: str) -> int:
        """Writes the text, or loses it. What the stream's encoding lacks becomes an escape."""
        if self.stream is not None:
            encoding = getattr(self.stream, "encoding", None) or "utf-8"
            shown = text.encode(encoding, "backslashreplace").decode(encoding)
            self._try(lambda stream: stream.write(shown))
        return len(text)

    def flush(self) -> None:
        """Hands on what is buffered, or loses it."""
        self._try(lambda stream: stream.flush())

    def _try(self, action: Callable[[TextIO], object]) -> None:
        if self.stream is None:
            return
        try:
            action(self.stream)
        except OSError as error:
            if self.stream is sys.stdout and error.errno not in READER_LEFT:
                Output.lost = error

    def __getattr__(self, name: str) -> Any:  # what rich asks of a file
        return getattr(self.stream, name)


def let_go() -> OSError | None:
    """Writes what is left in the buffers at the end of a command, or drops it.

    Python would write it at its exit, and turn a failure into another exit code.

    Returns:
        Why lines of stdout are lost; None if none are, or if their reader left.
    """
    for stream in (sys.stdout, sys.stderr):
        try:
            if stream is not None:
                stream.flush()
        except OSError:
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, stream.fileno())
            os.close(nowhere)
    lost, Output.lost = Output.lost, None
    return lost
