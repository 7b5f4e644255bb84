"""``overpaint status``: prints the state of an output, as a table or as JSON."""

from __future__ import annotations

from jobs.commands.open_output import open_output
from jobs.terminal import show, show_table
from pipeline.config.load import ConfigError
from pipeline.plan.status import OutputStatus, ShardStatus, read_status
from pipeline.records.printable import printable_json
from pipeline.republish.retry_failed import retried_rows


def print_status(path: str, storage_options: list[str], *, as_json: bool) -> int:
    """Prints the status of an output; returns 0.

    Raises:
        ConfigError: no run has written there, or the store cannot be read.
    """
    output = open_output(path, storage_options)
    try:
        status = read_status(output)
    except OSError as error:
        raise ConfigError(f"{path}: {error or type(error).__name__}") from error
    if as_json:
        show(printable_json(status.to_tree(), indent=2), lines=True)
    else:
        _print_table(status)
        failed = [shard for shard in status.shards if shard.failed]
        if failed:
            _print_advice(
                sum(shard.failed for shard in failed),
                sum(retried_rows(output, [shard.shard for shard in failed]).values()),
            )
    return 0


def _print_advice(failed: int, retried: int) -> None:
    """Says what can be done about failed edits: nothing here, where their own input is at fault."""
    others = "the reasons are in the column message: correct the input, and use another output"
    if retried == failed:
        show(f"{failed} failed edits: overpaint edit ... --retry-failed")
    elif retried:
        show(f"{failed} failed edits: overpaint edit ... --retry-failed recomputes {retried}")
        show(f"the other {failed - retried} would fail again; {others}")
    else:
        show(f"{failed} failed edits, which would fail again; {others}")


def _print_table(status: OutputStatus) -> None:
    show_table(
        ("shard", "state", "parts", "edits", "failed", "problem"),
        ((shard.shard, shard.state, _parts(shard), *_edits(shard)) for shard in status.shards),
    )
    states = ", ".join(f"{number} {state}" for state, number in status.states.items())
    tree = status.to_tree()
    show(f"{len(status.shards)} shards: {states}; {tree['edits']} edits")


def _edits(shard: ShardStatus) -> tuple[str, str, str]:
    is_done = shard.state == "done"
    counts = (str(shard.edits), str(shard.failed)) if is_done else ("", "")
    return *counts, shard.problem or ""


def _parts(shard: ShardStatus) -> str:
    if shard.state == "staged":
        return f"{shard.staged_parts} of {shard.num_parts or '?'}"
    return str(shard.num_parts or "")
