"""Log lines: plain text, or one JSON object per line (``run.log_format``) with shard and part.

Lines go to stderr. Ray keeps the stderr of each worker in a file on its node
(``session_latest/logs/worker-*.err`` below Ray's folder).
"""

from __future__ import annotations

import logging
import os
import socket
import sys
from datetime import UTC, datetime
from typing import Any, TextIO

from jobs.terminal import safe, show
from pipeline.records.printable import printable_json
from pipeline.storage.credentials import redacted

OURS = ("jobs", "pipeline")  # loggers that also log INFO; all others log warnings and errors

_format = "text"  # of this process
_place: dict[str, Any] = {}  # the shard, part and step that this process works on


def use_format(log_format: str) -> None:
    """Sets the format of this process's log lines: "text" or "json"."""
    global _format
    if logging.lastResort is not None:  # what a library logs where no handler is set up
        logging.lastResort.setFormatter(_TextLines())
    if log_format == _format:
        return
    _format = log_format
    if log_format == "json":
        logging.basicConfig(handlers=[_JsonLines()], level=logging.WARNING, force=True)
        for name in OURS:
            logging.getLogger(name).setLevel(logging.INFO)
    else:
        root = logging.getLogger()
        root.handlers = [one for one in root.handlers if not isinstance(one, _JsonLines)]


def is_json() -> bool:
    """Whether this process writes JSON lines."""
    return _format == "json"


def tell(message: str, *, level: str = "info", to: TextIO | None = None, **fields: Any) -> None:
    """Writes a line for the user.

    Args:
        message: the whole line in text format; of several lines, if they are our own.
        level: info, warning or error.
        to: where text goes; default: stderr.
        fields: further fields in JSON format, such as shard and part.
    """
    if is_json():
        _write(_line(message, level, fields))
    else:
        show(message, to=to or sys.stderr, lines=True)


def note(message: str, **fields: Any) -> None:
    """Writes a line in JSON format only; text format omits it."""
    if is_json():
        _write(_line(message, "info", fields))


def set_place(shard: str | None = None, part: int | None = None, step: str | None = None) -> None:
    """Sets the shard, part and step in all further lines of this process; no arguments: none."""
    _place.clear()
    _place.update({"shard": shard, "part": part, "step": step})


class _TextLines(logging.Formatter):
    """The lines of libraries in text format."""

    def format(self, record: logging.LogRecord) -> str:
        return safe(super().format(record), keep="\n")


class _JsonLines(logging.Handler):
    """Writes what libraries log as lines of the same format."""

    def emit(self, record: logging.LogRecord) -> None:
        fields: dict[str, Any] = {"logger": record.name}
        if record.exc_info is not None:
            fields["exception"] = logging.Formatter().formatException(record.exc_info)
        _write(_line(_message(record), record.levelname.lower(), fields))


def _message(record: logging.LogRecord) -> str:
    """The formatted message. A library's wrong format string must not fail a part."""
    try:
        return record.getMessage()
    except Exception:  # noqa: BLE001 - formatting calls a library's code, which may raise anything
        return f"{record.msg} {record.args}"


def _line(message: str, level: str, fields: dict[str, Any]) -> str:
    line = {
        "time": datetime.now(UTC).isoformat(timespec="milliseconds"),
        "level": level,
        "message": message,
        "host": socket.gethostname(),
        "pid": os.getpid(),
        **_place,
        **fields,
    }
    known = {name: value for name, value in line.items() if value is not None}
    return redacted(printable_json(known, default=str))


def _write(line: str) -> None:
    show(line, to=sys.stderr)
