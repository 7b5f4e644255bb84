"""Runs ``overpaint edit`` and writes when each part was done.

    python -m infra.benchmarks.timed_edit times.json configs/demo.yaml output.path=out

What follows the file's name is what follows ``overpaint edit``.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from unittest import mock

from pipeline.records.staged import PartResult

Part = tuple[float, int]  # time when it was done (time.time), number of edits


def main() -> int:
    """Runs the command in this process; returns its exit code."""
    from jobs.cli import main as overpaint

    with recorded() as parts:
        code = overpaint(["edit", *sys.argv[2:]])
    Path(sys.argv[1]).write_text(json.dumps(parts))
    return code


@contextmanager
def recorded() -> Iterator[list[Part]]:
    """Meanwhile each part whose result reaches this process, the driver, is added to the list.

    It is noted where results are parsed: that needs no Ray, so the command starts as it does alone.
    """
    parts: list[Part] = []
    parse = PartResult.from_json

    def from_json(text: str) -> PartResult:
        result = parse(text)
        parts.append((time.time(), result.num_edits))
        return result

    with mock.patch.object(PartResult, "from_json", from_json):
        yield parts


if __name__ == "__main__":
    sys.exit(main())
