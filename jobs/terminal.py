"""Shows lines and tables on the terminal. Nothing else prints: texts come from data, too.

What a shard's name or an error's message holds may neither move the cursor nor be read as rich's
markup (``[/x]``), and no password in a url is shown.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable, Sequence
from typing import TextIO

from rich.console import Console
from rich.table import Table
from rich.text import Text

from pipeline.records.printable import printable
from pipeline.storage.credentials import redacted

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
    print(safe(line, keep="\n" if lines else ""), file=to or sys.stdout, flush=True)


def show_log(text: str) -> None:
    """Prints a piece of another process's log to stdout, without its colors."""
    print(safe(COLOR.sub("", text), keep="\n\r\t"), end="", flush=True)


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
    return Console(markup=False, emoji=False, highlight=False, stderr=stderr)
