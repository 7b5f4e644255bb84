"""The whole job as a plain loop in one process, without Ray: for notebooks, tests and debugging."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, closing

from pipeline.execution.operators import Flow, Operator, compute_part, flow_of, read
from pipeline.execution.prefetch import prefetch, write_behind
from pipeline.plan.cuts import apply_cuts
from pipeline.plan.plan import Plan
from pipeline.plan.run_folder import write_run_folder
from pipeline.records.part import Part
from pipeline.records.staged import PartResult
from pipeline.republish.refilter import complete_refilter
from pipeline.republish.retry_failed import publish_staged
from pipeline.storage.formats import BadShardError

# Images decoded at once, and encoded at once, as far as there are cores: a GPU that edits a few
# images a second must not wait for PNGs of a megapixel, which take 0.4 s each.
IMAGES = min(4, os.cpu_count() or 1)


def run_loop(
    plan: Plan,
    on_part: Callable[[PartResult], None] | None = None,
    stages: Mapping[str, Callable[[Part], Part]] | None = None,
    *,
    beside: bool = True,
) -> Plan:
    """Does the work of a plan, one part after the other; writes what the Ray job would write.

    Args:
        plan: the run.
        on_part: called with the result of every part, in order, in the caller's thread.
        stages: by name, loaded for this plan's config and device; None loads them.
        beside: while the stages compute a part, one thread reads and prepares the next part and
            another finishes and commits the one before, several images at once; three parts are
            in memory. False: each step follows the other in the caller's thread, so a run always
            makes the same storage calls in the same order. The bytes are equal.

    Returns:
        The plan as it stands afterwards; its ``work`` is empty if every shard is published.

    Raises:
        BadShardError: at the end, after all other shards: some are no tars, each named.
        OSError: a shard cannot be read, or a part not be stored. Parts before it are committed.
    """
    apply_cuts(plan.output, plan.cuts)
    write_run_folder(plan)
    complete_refilter(plan)
    plan = publish_staged(plan)
    flow = flow_of(plan, threads=IMAGES if beside else 1)
    operators = (
        flow.load("fused")
        if stages is None
        else [Operator(name, stage) for name, stage in stages.items()]
    )
    bad: list[str] = []
    parts = _prepared(plan, flow, bad)
    with ExitStack() as stack:  # whatever ends the loop, its threads end first
        if beside:
            parts = stack.enter_context(closing(prefetch(parts)))
        computed = (compute_part(part, operators) for part in parts)
        committed: Iterable[Part]
        if beside:
            committed = stack.enter_context(
                closing(write_behind(lambda part: compute_part(part, flow.last), computed))
            )
        else:
            committed = (compute_part(part, flow.last) for part in computed)
        for part in committed:
            if on_part is not None and part.result is not None:
                on_part(part.result)
    if bad:
        raise BadShardError("\n".join(bad))
    return plan.still_to_do()


def _prepared(plan: Plan, flow: Flow, bad: list[str]) -> Iterator[Part]:
    """The prepared parts of all shards; what cannot be read of bad ones is added to ``bad``."""
    for work in plan.work:
        try:
            for part in read(flow, work):
                yield compute_part(part, [flow.prepare])
        except BadShardError as error:
            bad.append(str(error))
