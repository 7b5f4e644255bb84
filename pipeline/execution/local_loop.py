"""The whole job as a plain loop in one process, without Ray: for notebooks, tests and debugging."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, closing
from functools import partial

from pipeline.execution.operators import (
    PartResult,
    finish_and_commit,
    finish_context,
    guarded,
    prepared,
    read,
)
from pipeline.execution.prefetch import prefetch, write_behind
from pipeline.plan.plan import Plan
from pipeline.plan.run_folder import write_run_folder
from pipeline.records.part import Part
from pipeline.republish.refilter import complete_refilter
from pipeline.republish.retry_failed import publish_staged
from pipeline.stages.build import StageStep, load_fused

# Images that are decoded at once, and that are encoded at once, as far as there are cores: so
# that a GPU of a few images a second need not wait for PNGs of a megapixel, which take 0.4 s each.
IMAGES = min(4, os.cpu_count() or 1)


def run_loop(
    plan: Plan,
    on_part: Callable[[PartResult], None] | None = None,
    stages: Mapping[str, StageStep] | None = None,
    *,
    beside: bool = True,
) -> Plan:
    """Does the work of a plan, one part after the other; writes what the Ray job would write.

    Args:
        plan: the run.
        on_part: hears of every part, in their order, in the caller's thread.
        stages: loaded for this plan's config and device; none: they are loaded here.
        beside: while the stages work on a part, the next one is read and prepared and the one
            before finished and committed, in threads of their own and a few images at once;
            three parts are in memory. Without, each step follows the other in the caller's thread,
            so that a run always makes the same storage calls in the same order. Equal bytes.

    Returns:
        The plan as it stands afterwards; its ``work`` is empty if every shard is published.
    """
    write_run_folder(plan)
    complete_refilter(plan)
    plan = publish_staged(plan)
    if stages is None:
        stages = load_fused(plan.config, plan.device)
    threads = IMAGES if beside else 1
    context, output = finish_context(plan), plan.output
    commit = partial(finish_and_commit, context=context, output=output, threads=threads)
    parts = _prepared_parts(plan, threads)
    results: Iterator[PartResult]
    with ExitStack() as stack:  # whatever ends the loop, its threads end first
        if beside:
            parts = stack.enter_context(closing(prefetch(parts)))
            computed = _computed(parts, stages)
            results = stack.enter_context(closing(write_behind(commit, computed)))
        else:
            results = map(commit, _computed(parts, stages))
        for result in results:
            if on_part is not None:
                on_part(result)
    return plan.still_to_do()


def _prepared_parts(plan: Plan, threads: int) -> Iterator[Part]:
    size = plan.model.size_for(plan.config.model)
    for work in plan.work:
        for part in read(work, plan.config):
            yield prepared(part, plan.config, size, threads=threads)


def _computed(parts: Iterable[Part], stages: Mapping[str, StageStep]) -> Iterator[Part]:
    for part in parts:
        for name, stage in stages.items():
            part = guarded(name, stage, part)
        yield part
