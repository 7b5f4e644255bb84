"""``--retry-failed``: computes failed rows of published shards again.

It takes a published shard apart into its staged parts, leaves out the parts with rows to compute
again, and removes the marker. Then the shard is unfinished like any other: the ordinary job
computes the missing parts and publishes. pipeline/README.md says why this order is safe.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import dataclass, field, replace

from pipeline.plan.plan import Plan, ShardWork
from pipeline.records.part import Part, Status
from pipeline.records.rows import Row
from pipeline.republish.generation import NotTheSameError, read_generation, stage_part
from pipeline.steps.marker import ShardStats, read_marker
from pipeline.steps.publish import publish_if_complete
from pipeline.steps.read import read_parts
from pipeline.steps.staged_parts import staged_parts
from pipeline.storage.layout import marker_name
from pipeline.storage.readers import in_threads
from pipeline.storage.shards import InputShard
from pipeline.storage.store import Store

log = logging.getLogger(__name__)

# An error in these stages is more often the machine's fault than the row's. Invalid inputs, which
# fail in read and prepare, are not retried: they would fail again.
RETRIED_STAGES = frozenset({"compute", "mask", "encode", "decode", "score", "finish", "commit"})
NEVER = frozenset({"BadSettings"})  # the sample's own settings
TRANSIENT = frozenset({"MemoryError", "SystemExit", "PartLost", "TimedOut"})  # whatever the stage


@dataclass
class Reopened:
    """The plan with the shards that are to be computed again in part."""

    plan: Plan
    shards: list[str] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)  # a line for each shard that stays as it is


def publish_staged(plan: Plan) -> Plan:
    """Publishes the shards whose parts are all staged, and returns the plan without them.

    A run that was killed between the last part and the marker leaves such shards behind. They have
    nothing left to compute, so no task would ever publish them. A shard whose parts do not fit
    together is named, and the others go on. A damaged part is deleted, so the plan has it again.
    """
    staged = [work.shard.name for work in plan.work if work.staged]
    for name in staged:
        try:
            publish_if_complete(plan.output, name, plan.config.filtering)
        except ValueError as error:
            log.warning("shard %s stays unpublished: %s", name, error)
    return plan.still_to_do() if staged else plan


def is_retried(stage: str | None, error: str | None) -> bool:
    """Whether computing a failed row again may help."""
    return error in TRANSIENT or (stage in RETRIED_STAGES and error not in NEVER)


def reopen_failed(plan: Plan) -> Reopened:
    """Takes apart every published shard of the run that has rows to retry.

    Raises:
        OSError: the output cannot be read or written. Running again resumes.
    """
    output = plan.output
    work = {item.shard.name: item for item in plan.work}
    reopened = Reopened(plan)
    for shard in retried_rows(output, plan.published):
        try:
            _reopen(plan, output, plan.inputs[shard])
        except FileNotFoundError:  # another driver is republishing it
            reopened.problems.append(f"shard {shard}: not computed again: its objects are moving")
        except (ValueError, OSError, KeyError) as error:
            reopened.problems.append(f"shard {shard}: not computed again: {error}")
        else:
            max_edits = plan.cuts.record.get(shard)
            work[shard] = ShardWork(plan.inputs[shard], max_edits=max_edits)
            reopened.shards.append(shard)
    published = [shard for shard in plan.published if shard not in reopened.shards]
    every = [work[name] for name in sorted(work)]
    reopened.plan = replace(plan, work=every, published=published).still_to_do()
    return reopened


def retried_rows(output: Store, published: list[str]) -> dict[str, int]:
    """The published shards with rows that ``--retry-failed`` computes again, and how many."""

    def count(shard: str) -> int:
        try:
            stats = read_marker(output, shard)
        except (ValueError, TypeError):  # verify names it
            return 0
        found = 0
        for kind, rows in (stats.failures if stats else {}).items():
            stage, _, error = kind.partition(": ")
            found += rows if is_retried(stage, error) else 0
        return found

    return {shard: rows for shard, rows in in_threads(count, published) if rows}


def _reopen(plan: Plan, output: Store, shard: InputShard) -> None:
    """Stages the parts that stay, and removes the marker."""
    generation = read_generation(output, shard.name)
    stats, rows = generation.stats, generation.rows
    parts = list(_parts(plan, shard, stats, rows))
    failed = {
        part.index
        for part, part_rows in parts
        if any(
            row.status == Status.FAILED and is_retried(row.stage, row.error) for row in part_rows
        )
    }
    # A killed run may have left parts of the first generation; their failed rows must not be
    # reused.
    for staged in staged_parts(output, shard.name):
        if staged.index in failed:
            output.delete(staged.name)
    is_first = True
    for part, part_rows in parts:
        if part.index not in failed:
            stage_part(output, generation, part.index, part_rows, with_totals=is_first)
            is_first = False
    output.delete(marker_name(shard.name))


def _parts(
    plan: Plan, shard: InputShard, stats: ShardStats, rows: list[Row]
) -> Iterator[tuple[Part, list[Row]]]:
    """Each part of the shard, read again from the input, with its published rows.

    Raises:
        NotTheSameError: the input now has other edits or other images than were published.
    """
    limit = len(rows) if plan.config.input.limit else None
    start = 0
    config = plan.config
    for part in read_parts(
        *(shard, config.input, config.run.part_size),
        group_shapes=config.model.groups_shapes,
        max_edits=limit,
        ranges=True,  # only the order of the edits matters here
    ):
        part_rows = rows[start : start + len(part.edits)]
        start += len(part_rows)
        wanted = [
            (sample.key, edit.index, edit.edit_text, sample.source_sha256)
            for sample in part.samples
            for edit in sample.edits
        ]
        if wanted != [
            (row.key, row.edit_index, row.edit_text, row.source_sha256) for row in part_rows
        ]:
            raise NotTheSameError(f"the input {shard.url} is no longer the one that was published")
        if part.num_parts != stats.num_parts:
            raise NotTheSameError(f"{part.num_parts} parts, and {stats.num_parts} were published")
        yield part, part_rows
    if start != len(rows):
        raise NotTheSameError(f"the input {shard.url} is no longer the one that was published")
