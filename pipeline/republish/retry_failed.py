"""``--retry-failed``: failed rows of published shards go back to be computed again.

A published shard is taken apart into the staged parts that it was built from. The parts with rows
to compute again are left out; then the marker goes, and the shard is an unfinished one like any
other: the ordinary job computes what is missing and publishes. Why each order of calls is safe
stands in pipeline/README.md.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace

from pipeline.plan.plan import Plan, ShardWork
from pipeline.records.part import Part, Status
from pipeline.republish.generation import NotTheSameError, Rows, read_generation, stage_part
from pipeline.steps.publish import ShardStats, publish_if_complete, read_marker
from pipeline.steps.read import read_parts
from pipeline.storage.layout import PARTS, marker_name, parse_part
from pipeline.storage.readers import in_threads
from pipeline.storage.shards import InputShard
from pipeline.storage.store import Store

# What fails in these stages fails for the machine's sake more often than for the row's own; in read
# and prepare a row fails for what its bytes are, and would fail alike.
RETRIED_STAGES = frozenset({"compute", "mask", "encode", "decode", "score", "finish", "commit"})
NEVER = frozenset({"BadSettings"})  # the sample's own settings
TRANSIENT = frozenset({"MemoryError", "SystemExit", "PartLost", "TimedOut"})  # whatever the stage


@dataclass
class Reopened:
    """The run with the shards in its work that are to be computed again in part."""

    plan: Plan
    shards: list[str] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)  # a line for each shard that stays as it is


def publish_staged(plan: Plan) -> Plan:
    """Publishes the shards whose parts all are staged, and returns the plan without them.

    A run that was killed between its last part and its marker leaves such shards. Nothing of them
    is left to compute, so no part would ever come by to publish them.
    """
    staged = [work.shard.name for work in plan.work if work.staged]
    filtering = plan.config.filtering
    published = [
        name
        for name in staged
        if publish_if_complete(plan.output, name, filtering=filtering) is not None
    ]
    return plan.still_to_do() if published else plan


def is_retried(stage: str | None, error: str | None) -> bool:
    """Whether a failed row may come out otherwise when it is computed again."""
    return error in TRANSIENT or (stage in RETRIED_STAGES and error not in NEVER)


def reopen_failed(plan: Plan) -> Reopened:
    """Takes apart every published shard of the run that has rows to compute again.

    Raises:
        OSError: the output cannot be read or written. Running again goes on.
    """
    output = plan.output
    work = {item.shard.name: item for item in plan.work}
    reopened = Reopened(plan)
    for shard in _with_retried_rows(output, plan.published):
        try:
            max_edits = _reopen(plan, output, plan.inputs[shard])
        except FileNotFoundError:  # another driver republishes it just now
            reopened.problems.append(f"shard {shard}: not computed again: its objects are moving")
        except (ValueError, OSError, KeyError) as error:
            reopened.problems.append(f"shard {shard}: not computed again: {error}")
        else:
            limit = max_edits if plan.config.input.limit else None
            work[shard] = ShardWork(plan.inputs[shard], max_edits=limit)
            reopened.shards.append(shard)
    published = [shard for shard in plan.published if shard not in reopened.shards]
    every = [work[name] for name in sorted(work)]
    reopened.plan = replace(plan, work=every, published=published).still_to_do()
    return reopened


def _with_retried_rows(output: Store, published: list[str]) -> Iterator[str]:
    """The shards whose markers count failures of a kind that is computed again."""

    def has_some(shard: str) -> bool:
        try:
            stats = read_marker(output, shard)
        except (ValueError, TypeError):  # verify names it
            return False
        kinds = [kind.partition(": ") for kind in (stats.failures if stats else {})]
        return any(is_retried(stage, error) for stage, _, error in kinds)

    for shard, wanted in in_threads(has_some, published):
        if wanted:
            yield shard


def _reopen(plan: Plan, output: Store, shard: InputShard) -> int:
    """Stages the parts of a shard that stay, and removes its marker. Returns its number of rows."""
    generation = read_generation(output, shard.name)
    stats, rows = generation.stats, generation.rows
    parts = list(_parts(plan, shard, stats, rows))
    failed = {
        part.index
        for part, part_rows in parts
        if any(
            r["status"] == Status.FAILED and is_retried(r["stage"], r["error"]) for r in part_rows
        )
    }
    # What a kill left behind of the first generation: its failed rows must not be taken for new.
    for name in output.list(f"{PARTS}{shard.name}/"):
        found = parse_part(name)
        if found is not None and found[0] == shard.name and found[1] in failed:
            output.delete(name)
    is_first = True
    for part, part_rows in parts:
        if part.index not in failed:
            stage_part(output, generation, part.index, part_rows, with_totals=is_first)
            is_first = False
    output.delete(marker_name(shard.name))
    return len(rows)


def _parts(
    plan: Plan, shard: InputShard, stats: ShardStats, rows: Rows
) -> Iterator[tuple[Part, Rows]]:
    """Each part of the shard as read anew, with its published rows.

    Raises:
        NotTheSameError: the input asks for other edits than were published, or of other images.
    """
    limit = len(rows) if plan.config.input.limit else None
    start = 0
    for part in read_parts(shard, plan.config.input, plan.config.run.part_size, max_edits=limit):
        part_rows = rows[start : start + len(part.edits)]
        start += len(part_rows)
        wanted = [
            (sample.key, edit.index, edit.edit_text, sample.source_sha256)
            for sample in part.samples
            for edit in sample.edits
        ]
        names = ("key", "edit_index", "edit_text", "source_sha256")
        if wanted != [tuple(row[name] for name in names) for row in part_rows]:
            raise NotTheSameError(f"the input {shard.url} is no longer what was published")
        if part.num_parts != stats.num_parts:
            raise NotTheSameError(f"{part.num_parts} parts, and {stats.num_parts} were published")
        yield part, part_rows
    if start != len(rows):
        raise NotTheSameError(f"the input {shard.url} is no longer what was published")
