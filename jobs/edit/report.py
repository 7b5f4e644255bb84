"""``overpaint report``, and the report at the end of a run: one HTML page in ``_run/``."""

from __future__ import annotations

import sys

from jobs.commands.verify import open_output
from jobs.logs import tell
from pipeline.config.config import Config
from pipeline.config.load import ConfigError
from pipeline.plan.plan import Plan
from pipeline.report.page import REPORT_FILE, Written, write_report
from pipeline.storage.store import Store


def report_output(path: str, storage_options: list[str], overrides: list[str]) -> int:
    """Writes the report of an output and prints where it is.

    Raises:
        ConfigError: nothing is published there, the store cannot be read or written, or an
            override is not allowed.
    """
    output = open_output(path, storage_options)
    try:
        written = write_report(output, overrides=overrides)
    except OSError as error:
        raise ConfigError(f"{path}: {error or type(error).__name__}") from error
    _print(output, written)
    return 0


def report_run(plan: Plan, num_edits_now: int) -> None:
    """The report at the end of a run, where it has something new to show.

    It never changes how the run ends: what goes wrong is a warning.
    """
    if not (plan.config.report.enabled and plan.published):
        return
    output = plan.output
    if not num_edits_now and output.exists(REPORT_FILE):
        tell(f"report: {output.url}/{REPORT_FILE}", to=sys.stdout)
        return
    draw_report(output, plan.config)


def draw_report(output: Store, config: Config) -> None:
    """Writes the report anew; what goes wrong is a warning, since a page can be made again."""
    try:
        written = write_report(output, config)
    except Exception as error:  # noqa: BLE001 - what it shows is published, whatever happens here
        tell(f"warning: no report: {type(error).__name__}: {error}", level="warning")
        return
    _print(output, written)


def _print(output: Store, written: Written) -> None:
    tell(
        f"report: {output.url}/{written.name} ({written.size_bytes / 1e6:.1f} MB, "
        f"{written.num_rows} edits, {written.num_with_pictures} with pictures)",
        to=sys.stdout,
    )
