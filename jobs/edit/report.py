"""Writes the report at the end of a run: one HTML page in ``_run/``."""

from __future__ import annotations

import sys

from jobs.logs import tell
from pipeline.config.config import Config
from pipeline.plan.plan import Plan
from pipeline.report.page import REPORT_FILE, Written, write_report
from pipeline.storage.store import Store


def report_run(plan: Plan, num_edits_now: int) -> None:
    """Writes the report at the end of a run, if there is something new to show.

    An error is only a warning, and never changes the run's exit code.
    """
    if not (plan.config.report.enabled and plan.published):
        return
    output = plan.output
    if not num_edits_now and output.exists(REPORT_FILE):
        tell(f"report: {output.url}/{REPORT_FILE}", to=sys.stdout)
        return
    draw_report(output, plan.config)


def draw_report(output: Store, config: Config) -> None:
    """Writes the report; an error is only a warning, since the report can be written again."""
    try:
        written = write_report(output, config)
    except Exception as error:  # noqa: BLE001 - the shards are published, so no error may end this
        tell(f"warning: no report: {type(error).__name__}: {error}", level="warning")
        return
    print_written(output, written)


def print_written(output: Store, written: Written) -> None:
    """Prints a report's address and how much it shows."""
    tell(
        f"report: {output.url}/{written.name} ({written.size_bytes / 1e6:.1f} MB, "
        f"{written.num_rows} edits, {written.num_with_images} with images)",
        to=sys.stdout,
    )
