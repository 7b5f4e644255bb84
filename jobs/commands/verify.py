"""``overpaint verify``: prints what a full audit of an output found."""

from __future__ import annotations

import sys
from typing import Any

from pipeline.config.load import ConfigError, apply_override
from pipeline.steps.verify import verify
from pipeline.storage.store import Store


def verify_output(path: str, storage_options: list[str] | None = None) -> int:
    """Returns 0 if everything published is whole and accounted for, else 1.

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


def open_output(path: str, storage_options: list[str]) -> Store:
    """The store of an output, with options for fsspec as "key=value" (see ``apply_override``).

    Raises:
        ConfigError: the url is refused, an option is not of this form, or nobody answers there.
    """
    options: dict[str, Any] = {}
    for option in storage_options:
        apply_override(options, option)
    try:
        output = Store(path, options)
        output.check_reachable()
    except ValueError as error:
        raise ConfigError(str(error)) from error
    except OSError as error:
        raise ConfigError(f"{path}: {error or type(error).__name__}") from error
    return output
