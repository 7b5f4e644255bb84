"""The report at the end of a run: one HTML page in ``_run/``."""

from __future__ import annotations

import sys

from jobs.logs import tell
from pipeline.config.config import Config
from pipeline.plan.plan import Plan
from pipeline.report.page import REPORT_FILE, Written, write_report
from pipeline.storage.store import Store


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
    print_written(output, written)


def print_written(output: Store, written: Written) -> None:
    """Says where a report is, and how much it shows."""
    tell(
        f"report: {output.url}/{written.name} ({written.size_bytes / 1e6:.1f} MB, "
        f"{written.num_rows} edits, {written.num_with_images} with images)",
        to=sys.stdout,
    )
