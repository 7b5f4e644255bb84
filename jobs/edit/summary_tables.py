"""Prints the plan of a dry run, and the summary at the end of a run."""

from __future__ import annotations

import shlex
from typing import Any

import yaml

from jobs.edit.progress import duration
from jobs.logs import is_json, tell
from jobs.terminal import show, show_styled, show_table
from pipeline.plan.plan import Plan
from pipeline.plan.run_folder import resolved_yaml
from pipeline.plan.summary import PlanOutcome, RunSummary

MAX_NAMES = 20
MAX_REASONS = 10


PLAN_SAYS = "overpaint plan counts the memory of an actor, and measures images/s, hours and cost"


def print_dry_run(plan: Plan) -> None:
    """Prints the resolved config, the fingerprint, the shards to do and done, and the pools."""
    if is_json():
        tell("dry run", **_dry_run_tree(plan))
        return
    config = plan.config
    show(resolved_yaml(config), lines=True)
    show(f"model:        {config.model.path}, {plan.model.family}, revision {plan.model.content}")
    show(f"fingerprint:  {plan.fingerprint}")
    show(f"done:         {len(plan.published)} shards{_some(plan.published)}")
    names = [f"{work.shard.name} ({work.num_staged} parts staged)" for work in plan.work]
    show(f"to do:        {len(plan.work)} shards{_some(names)}")
    for line in plan.cuts.lines:
        show(line)
    rows = []
    for name in config.pools:
        stage = config.pool_stage(name)
        max_actors = stage.max_actors or stage.actors
        row = [
            name,
            str(stage.actors) if max_actors == stage.actors else f"{stage.actors} to {max_actors}",
            f"{stage.cpus:g}",
            f"{stage.gpus_per_actor(plan.device):g}",
            str(stage.threads),
            str(stage.micro_batch),
        ]
        rows.append(row)
    show_table(("pool", "actors", "CPUs", "GPUs", "threads", "micro-batch"), rows, title="actors")
    show(PLAN_SAYS)


def _dry_run_tree(plan: Plan) -> dict[str, Any]:
    """What a dry run prints, for a JSON line."""
    return {
        "config": yaml.safe_load(resolved_yaml(plan.config)),
        "model": {"family": plan.model.family, "revision": plan.model.content},
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
    counts = [(status, str(number)) for status, number in summary.counts.items()]
    show_table(("status", "edits"), counts, title="edits", total=("total", str(summary.edits)))
    if summary.failures:
        show_table(("failed at: reason", "edits"), _reasons(summary), title="why edits failed")
    steps = [
        (name, f"{seconds:.1f}", str(summary.num_evals.get(name, "")))
        for name, seconds in summary.seconds.items()
    ]
    show_table(("step", "seconds", "network evaluations"), steps, title="summed over workers")
    for stage, number in summary.halvings.items():
        show_styled(
            f"{stage}: out of memory, so the micro-batch was halved {number} times; the rows "
            f"record it. Lower stages.{stage}.micro_batch, or model.vae_micro_batch where they "
            "name it, for the next output",
            "yellow",
        )
    if plan.config.model.compile != "off" and summary.compilations is not None:
        _print_compilations(summary.compilations)
    if summary.left_out:
        show_styled(
            f"{summary.left_out} rows are of samples with files that were not passed through; "
            "their notes name them, input.pass_through adds suffixes",
            "yellow",
        )
    if summary.cut_masks:
        show_styled(
            f"{summary.cut_masks} edited images ({summary.cut_mask_share:.1%}): the mask meets the "
            "border of the crop that the model saw, so the edit may be cut there; the rows say "
            "which. model.resize: pad shows the model all of an image, model.buckets: auto nearly "
            "all",
            "yellow",
        )
    for name, problem in (summary.problems | summary.unreadable).items():
        show_styled(f"shard {name}: {problem}", "yellow")
    show(f"{summary.published} shards published, {summary.to_do} to do")
    if summary.edits_computed_now:
        show(
            f"{summary.edits_computed_now} edits in {duration(summary.wall_s)}: "
            f"{summary.images_per_s:.2f} images/s, start-up included"
        )
        _print_outcome(summary.plan)
    elif summary.to_do:
        show("nothing was computed")
    else:
        show("there was nothing left to compute")
    show(f"output: {plan.config.output.path}")
    if summary.published and not summary.to_do:
        show(f"next: overpaint mix train --edited {shlex.quote(plan.config.output.path)}")


def _reasons(summary: RunSummary) -> list[tuple[str, str]]:
    """Why edits failed, most frequent first."""
    reasons = list(summary.failures.items())
    rows = [(reason, str(number)) for reason, number in reasons[:MAX_REASONS]]
    more = len(reasons) - MAX_REASONS
    return [*rows, (f"{more} more reasons: see the report", "")] if more > 0 else rows


def _print_compilations(compilations: dict[str, int]) -> None:
    """Prints how often stages compiled after the warm-up, which takes longer than many parts."""
    if not compilations:
        show("compilations after the warm-up: 0")
        return
    by_stage = ", ".join(f"{stage} {number}" for stage, number in compilations.items())
    show_styled(
        f"compilations after the warm-up: {sum(compilations.values())} ({by_stage}); these parts "
        "had shapes that it does not know: of a region, or after memory ran out",
        "yellow",
    )


def _print_outcome(outcome: PlanOutcome | None) -> None:
    """Prints the actual and the expected rate, if both are known."""
    if outcome is not None and outcome.ratio is not None:
        show(
            f"from the first part to the last: {outcome.images_per_s_after_start:.3g} images/s, "
            f"{outcome.ratio:.0%} of the expected {outcome.images_per_s:.3g}"
        )


def _some(names: list[str]) -> str:
    """The first names, and the number of further ones."""
    if not names:
        return ""
    more = f", and {len(names) - MAX_NAMES} more" if len(names) > MAX_NAMES else ""
    return f": {', '.join(names[:MAX_NAMES])}{more}"
