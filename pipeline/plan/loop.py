"""The whole job as a plain loop in one process, without Ray: for notebooks, tests and debugging."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from pipeline.methods import StageStep, load_fused
from pipeline.plan.operators import (
    PartResult,
    finish_and_commit,
    finish_context,
    guarded,
    prepared,
    read,
)
from pipeline.plan.plan import Plan
from pipeline.plan.refilter import complete_refilter
from pipeline.plan.republish import publish_staged
from pipeline.plan.run_folder import write_run_folder


def run_loop(
    plan: Plan,
    on_part: Callable[[PartResult], None] | None = None,
    stages: Mapping[str, StageStep] | None = None,
) -> Plan:
    """Does the work of a plan, one part after the other; writes what the Ray job would write.

    Args:
        plan: the run.
        on_part: hears of every part.
        stages: loaded for this plan's config and device; none: they are loaded here.

    Returns:
        The plan as it stands afterwards; its ``work`` is empty if every shard is published.
    """
    write_run_folder(plan)
    complete_refilter(plan)
    plan = publish_staged(plan)
    config, output, context = plan.config, plan.output, finish_context(plan)
    if stages is None:
        stages = load_fused(config, plan.device)
    for work in plan.work:
        for part in read(work, config):
            part = prepared(part, config, plan.model.size_for(config.model))
            for name, stage in stages.items():
                part = guarded(name, stage, part)
            result = finish_and_commit(part, context, output)
            if on_part is not None:
                on_part(result)
    return plan.still_to_do()
