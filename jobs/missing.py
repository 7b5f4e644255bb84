"""After the waves: what was expected and is not staged runs again alone, then fails by name."""

from __future__ import annotations

import sys
from dataclasses import replace

from jobs.graph import edit_dataset
from jobs.progress import RunProgress
from jobs.stop import StopFlag
from pipeline.plan.operators import fail_and_commit, finish_context, read
from pipeline.plan.plan import Plan
from pipeline.plan.republish import publish_staged
from pipeline.storage.retry import StorageError


def run_missing(plan: Plan, progress: RunProgress, stop: StopFlag) -> None:
    """Runs what the waves left, one part at a time, and stages the rows of what is lost again.

    A part goes missing when its actor died more often than ``run.max_task_retries`` allows, or an
    operator outside the stages raised. A shard that cannot be read stays unpublished.
    """
    left = publish_staged(plan.still_to_do())
    if not left.work or stop.is_set():
        return
    print(f"{len(left.work)} shards miss parts; running those again alone", file=sys.stderr)
    progress.follow(edit_dataset(_alone(left), left.work, stop, alone=True))
    if stop.is_set():
        return
    left = publish_staged(plan.still_to_do())
    context, output = finish_context(plan), plan.output
    for work in left.work:
        try:
            for part in read(work, plan.config):
                message = "the worker that computed this part died or raised, twice"
                progress.update(
                    fail_and_commit(part, context, output, "compute", "PartLost", message)
                )
                progress.metrics.lost.inc()
        except (StorageError, OSError, ValueError) as error:
            print(f"shard {work.shard.name} cannot be read: {error}", file=sys.stderr)


def _alone(plan: Plan) -> Plan:
    """The same computation in one fused actor; a layout moves no byte."""
    stages = plan.config.stages
    decode = stages.decode.model_copy(update={"actors": 1, "max_actors": 1})
    config = plan.config.model_copy(
        update={
            "run": plan.config.run.model_copy(update={"layout": "fused"}),
            "stages": stages.model_copy(update={"decode": decode}),
        }
    )
    return replace(plan, config=config)
