"""``overpaint refilter``: applies other filters to an output and prints what changes."""

from __future__ import annotations

import json
import sys
from collections import Counter

from jobs.commands.open_output import open_output
from jobs.edit.report import draw_report
from jobs.edit.writable import check_writable
from jobs.terminal import show, show_table
from pipeline.config.config import Config
from pipeline.config.load import ConfigError, parse_config
from pipeline.plan.filters import changed_filters, read_filters
from pipeline.plan.run_folder import (
    CONFIG_FILE,
    SUMMARY_FILE,
    read_config,
    resolved_yaml,
    write_summary,
)
from pipeline.records.part import Status
from pipeline.records.run_files import RunFileError
from pipeline.republish.generation import NotTheSameError
from pipeline.republish.refilter import preview, refilter
from pipeline.storage.store import Store


def refilter_output(
    path: str,
    storage_options: list[str],
    *,
    given: list[str | dict[str, str]],
    dropped: list[str],
    clear: bool,
    dry_run: bool,
) -> int:
    """Changes the filters in force and publishes affected shards again; computes no image.

    Writes the report again unless ``report.enabled`` is off. Only the report reads the input, if it
    can, for the images before the edit.

    Args:
        path: of the output.
        storage_options: "key=value", for fsspec.
        given, dropped, clear: see ``changed_filters``. Without any of them, an interrupted refilter
            is resumed.
        dry_run: print the rows by status before and after, and change nothing.

    Returns:
        The exit code: 0 if every published shard has the new filters, else 1.

    Raises:
        ConfigError: nothing was changed: no run has written there, a filter is not valid or needs a
            score that the run did not compute, or an image that would pass was not kept.
        RunFileError: nothing was changed: a marker or a file of ``_run/`` cannot be used.
    """
    output = open_output(path, storage_options)
    try:
        in_force = read_filters(output)
        current = [] if in_force is None else in_force.filters
        filters = changed_filters(current, given=given, dropped=dropped, clear=clear)
        config = _config_with(output, filters)
        found = preview(output, config.filtering)
    except FileNotFoundError:
        raise ConfigError(f"{path}: no run has written here") from None
    except RunFileError:
        raise
    except NotTheSameError as error:
        raise ConfigError(f"{path}: {error}; overpaint verify lists the problems") from None
    except (ValueError, OSError) as error:
        raise ConfigError(f"{path}: {error or type(error).__name__}") from error
    _print_change(current, filters, found.before, found.after)
    if found.lost:
        raise ConfigError(
            f"{path}: {found.lost} rejected edits would pass, but their images were not kept "
            "(output.keep_rejected: false); this output can only get stricter filters"
        )
    check_writable(output)
    if dry_run:
        return 0
    done = refilter(output, config.filtering)
    for line in done.problems:
        show(line, to=sys.stderr)
    output.put(CONFIG_FILE, resolved_yaml(config).encode())
    _correct_summary(output, preview(output, config.filtering).before)
    show(f"{len(done.shards)} shards published again, {len(done.problems)} problems")
    if config.report.enabled:
        draw_report(output, config)
    return 1 if done.problems else 0


def _config_with(output: Store, filters: list[str]) -> Config:
    """The run's configuration with other filters; checks that the run computed their scores."""
    return parse_config(read_config(output).model_dump(mode="json") | {"filters": filters})


def _correct_summary(output: Store, counts: Counter[str]) -> None:
    """Updates the counts in the run's summary, if there is one that can be read."""
    try:
        summary = json.loads(output.get(SUMMARY_FILE))
    except (FileNotFoundError, ValueError, RecursionError):
        return
    if isinstance(summary, dict):
        counted = {"counts": {str(item): counts[item] for item in Status}}
        write_summary(output, summary | counted)


def _print_change(
    current: list[str], filters: list[str], before: Counter[str], after: Counter[str]
) -> None:
    for title, texts in (("filters were", current), ("filters are", filters)):
        show(f"{title}: {', '.join(texts) or 'none'}")
    rows = [(str(status), str(before[status]), str(after[status])) for status in Status]
    show_table(("status", "before", "after"), rows)
