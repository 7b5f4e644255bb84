"""``overpaint verify``: audits an output and prints the problems."""

from __future__ import annotations

import sys

from jobs.commands.open_output import open_output
from pipeline.config.load import ConfigError
from pipeline.steps.verify import verify


def verify_output(path: str, storage_options: list[str] | None = None) -> int:
    """Returns 0 if the audit of an output finds no problem, else 1.

    Raises:
        ConfigError: the store cannot be listed or read.
    """
    try:
        report = verify(open_output(path, storage_options or []))
    except OSError as error:
        raise ConfigError(f"{path}: {error or type(error).__name__}") from error
    for problem in report.problems:
        print(problem, file=sys.stderr)
    counts = ", ".join(f"{number} {status}" for status, number in sorted(report.counts.items()))
    print(f"{report.num_shards} shards, {report.num_rows} rows: {counts or 'none'}")
    print("verified" if not report.problems else f"{len(report.problems)} problems")
    return 1 if report.problems else 0
