"""What a run says: plain lines, or a JSON object a line (``run.log_format``) with shard and part.

Lines go to stderr: the driver's own, and each worker's, which Ray keeps in a file on its node
(``session_latest/logs/worker-*.err`` below Ray's folder).
"""

from __future__ import annotations

import json
import logging
import os
import socket
import sys
from datetime import UTC, datetime
from typing import Any, TextIO

OURS = ("jobs", "pipeline")  # loggers whose notes are told too, beside everybody's warnings

_format = "text"  # of this process
_place: dict[str, Any] = {}  # the shard, part and step that this process is at


def use_format(log_format: str) -> None:
    """How this process talks from now on: "text" or "json"."""
    global _format
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
    """A line for whoever runs the job.

    Args:
        message: all there is to it as text.
        level: info, warning or error.
        to: where text goes, if not to stderr.
        fields: what a program would want to read beside it, such as shard and part.
    """
    if is_json():
        _write(_line(message, level, fields))
    else:
        print(message, file=to or sys.stderr, flush=True)


def note(message: str, **fields: Any) -> None:
    """A line that is of use to programs only: JSON has it, text does not."""
    if is_json():
        _write(_line(message, "info", fields))


def set_place(shard: str | None = None, part: int | None = None, step: str | None = None) -> None:
    """What this process is at: stands in every line of its own from now on. Nothing: at nothing."""
    _place.clear()
    _place.update({"shard": shard, "part": part, "step": step})


class _JsonLines(logging.Handler):
    """What libraries log, as lines of the same form."""

    def emit(self, record: logging.LogRecord) -> None:
        fields: dict[str, Any] = {"logger": record.name}
        if record.exc_info is not None:
            fields["exception"] = logging.Formatter().formatException(record.exc_info)
        _write(_line(_message(record), record.levelname.lower(), fields))


def _message(record: logging.LogRecord) -> str:
    """As it was meant; one that does not fit its arguments must not fail the part that it is of."""
    try:
        return record.getMessage()
    except Exception:  # noqa: BLE001 - whatever formatting raises, in a library's own words
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
    return json.dumps(known, ensure_ascii=False, default=str)


def _write(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
