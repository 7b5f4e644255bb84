"""Prints the plan of a dry run, and the summary at the end of a run."""

from __future__ import annotations

from typing import Any

import yaml
from rich.console import Console
from rich.table import Table
from rich.text import Text

from jobs.edit.progress import duration
from jobs.logs import is_json, tell
from pipeline.plan.plan import Plan
from pipeline.plan.run_folder import resolved_yaml
from pipeline.plan.summary import PlanOutcome, RunSummary

MAX_NAMES = 20
MAX_REASONS = 10


def print_dry_run(plan: Plan) -> None:
    """Prints the resolved config, the fingerprint, the shards to do and done, and the pools."""
    if is_json():
        tell("dry run", **_dry_run_tree(plan))
        return
    config = plan.config
    print(resolved_yaml(config))
    print(f"model:        {config.model.path}, {plan.model.family}, revision {plan.model.revision}")
    print(f"fingerprint:  {plan.fingerprint}")
    print(f"done:         {len(plan.published)} shards{_some(plan.published)}")
    names = [f"{work.shard.name} ({work.num_staged} parts staged)" for work in plan.work]
    print(f"to do:        {len(plan.work)} shards{_some(names)}")
    for line in plan.cuts.lines:
        print(line)
    table = Table("pool", "actors", "CPUs", "GPUs", "threads", "micro-batch", title="actors")
    for name in config.pools:
        stage = config.pool_stage(name)
        max_actors = stage.max_actors or stage.actors
        table.add_row(
            name,
            str(stage.actors) if max_actors == stage.actors else f"{stage.actors} to {max_actors}",
            f"{stage.cpus:g}",
            f"{stage.gpus_per_actor(plan.device):g}",
            str(stage.threads),
            str(stage.micro_batch),
        )
    Console().print(table)


def _dry_run_tree(plan: Plan) -> dict[str, Any]:
    """What a dry run prints, for a JSON line."""
    return {
        "config": yaml.safe_load(resolved_yaml(plan.config)),
        "model": {"family": plan.model.family, "revision": plan.model.revision},
        "fingerprint": plan.fingerprint,
        "done": plan.published,
        "to_do": {work.shard.name: work.num_staged for work in plan.work},
        "notes": plan.cuts.lines,
    }


def print_summary(plan: Plan, summary: RunSummary) -> None:
    """Prints counts by status, images/s, and the seconds and network evaluations of each step."""
    if is_json():
        tell("summary", summary=summary.to_tree())
        return
    console = Console()
    counts = Table("status", "edits", title="edits")
    for status, number in summary.counts.items():
        counts.add_row(status, str(number))
    counts.add_row("total", str(summary.edits), style="bold")
    console.print(counts)
    if summary.failures:
        console.print(_reasons(summary))
    steps = Table("step", "seconds", "network evaluations", title="summed over workers")
    for name, seconds in summary.seconds.items():
        steps.add_row(name, f"{seconds:.1f}", str(summary.num_evals.get(name, "")))
    console.print(steps)
    for stage, number in summary.halvings.items():
        console.print(
            f"{stage}: out of memory, so the micro-batch was halved {number} times; the rows "
            f"record it. Lower stages.{stage}.micro_batch for the next output",
            style="yellow",
            soft_wrap=True,
        )
    if summary.left_out:
        console.print(
            f"{summary.left_out} rows are of samples with files that were not passed through; "
            "their notes name them, input.pass_through adds suffixes",
            style="yellow",
            soft_wrap=True,
        )
    if summary.cut_masks:
        console.print(
            f"{summary.cut_masks} edited images ({summary.cut_mask_share:.1%}): the mask meets the "
            "border of the crop that the model saw, so the edit may be cut there; the rows say "
            "which. model.resize: pad shows the model all of an image",
            style="yellow",
            soft_wrap=True,
        )
    for name, problem in summary.problems.items():
        console.print(f"shard {name}: {problem}", style="yellow")
    console.print(f"{summary.published} shards published, {summary.to_do} to do")
    if summary.edits_computed_now:
        console.print(
            f"{summary.edits_computed_now} edits in {duration(summary.wall_s)}: "
            f"{summary.images_per_s:.2f} images/s, start-up included",
            soft_wrap=True,
        )
        _print_outcome(console, summary.plan)
    elif summary.to_do:
        console.print("nothing was computed")
    else:
        console.print("there was nothing left to compute")
    console.print(f"output: {plan.config.output.path}", soft_wrap=True)


def _reasons(summary: RunSummary) -> Table:
    """Why edits failed, most frequent first."""
    table = Table("failed at: reason", "edits", title="why edits failed")
    for reason, number in list(summary.failures.items())[:MAX_REASONS]:
        table.add_row(Text(reason), str(number))
    more = len(summary.failures) - MAX_REASONS
    if more > 0:
        table.add_row(f"{more} more reasons: see the report", "")
    return table


def _print_outcome(console: Console, outcome: PlanOutcome | None) -> None:
    """Prints the actual and the expected rate, if both are known."""
    if outcome is not None and outcome.ratio is not None:
        console.print(
            f"from the first part to the last: {outcome.images_per_s_after_start:.3g} images/s, "
            f"{outcome.ratio:.0%} of the expected {outcome.images_per_s:.3g}",
            soft_wrap=True,
        )


def _some(names: list[str]) -> str:
    """The first names, and the number of further ones."""
    if not names:
        return ""
    more = f", and {len(names) - MAX_NAMES} more" if len(names) > MAX_NAMES else ""
    return f": {', '.join(names[:MAX_NAMES])}{more}"
