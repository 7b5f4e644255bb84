"""``overpaint report``: writes the report of an output."""

from __future__ import annotations

from jobs.commands.open_output import open_output
from jobs.edit.report import print_written
from pipeline.config.load import ConfigError
from pipeline.report.page import write_report


def report_output(path: str, storage_options: list[str], overrides: list[str]) -> int:
    """Writes the report of an output and prints its address.

    Raises:
        ConfigError: nothing is published there, the store cannot be read or written, or an
            override is not allowed.
    """
    output = open_output(path, storage_options)
    try:
        written = write_report(output, overrides=overrides)
    except OSError as error:
        raise ConfigError(f"{path}: {error or type(error).__name__}") from error
    print_written(output, written)
    return 0
