"""``overpaint refilter``: other filters for what is published, without computing an image again.

A published shard holds all that its staged parts held, the rejected images in a tar of their own.
So each is taken apart into its parts, all of them; then its marker goes, and it is published as any
other shard is, with the new filters. Why each order of calls is safe stands in pipeline/README.md.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field, replace
from itertools import pairwise

from pipeline.config.filters import Filtering
from pipeline.plan.filters import FILTERS_FILE, FiltersInForce, read_filters
from pipeline.plan.plan import Plan
from pipeline.records.part import Status
from pipeline.republish.generation import NotTheSameError, read_generation, read_rows, stage_part
from pipeline.steps.filter import apply_filters, unfiltered
from pipeline.steps.publish import publish_if_complete, read_marker
from pipeline.storage.layout import marker_name, output_state, sweep
from pipeline.storage.store import Store


@dataclass
class Preview:
    """The published rows by status, as they are and as other filters would have them."""

    before: Counter[str] = field(default_factory=Counter)
    after: Counter[str] = field(default_factory=Counter)
    lost: int = 0  # rows that pass now, and whose images were not kept


@dataclass
class Refiltered:
    """What ``refilter`` did."""

    shards: list[str] = field(default_factory=list)  # published anew
    problems: list[str] = field(default_factory=list)  # a line for each that stays as it is


def preview(output: Store, filtering: Filtering) -> Preview:
    """Judges all published rows by other filters, and changes nothing.

    Raises:
        NotTheSameError: a Parquet file is not what its marker says.
    """
    found = Preview()
    for shard in _published(output):
        stats = read_marker(output, shard)
        if stats is None:
            continue
        before = read_rows(output, stats)
        after = apply_filters(unfiltered(before), filtering)
        found.before.update(before.column("status").to_pylist())
        found.after.update(after.column("status").to_pylist())
        statuses = after.column("status").to_pylist()
        for row, status in zip(
            before.select(["status", "output_key"]).to_pylist(), statuses, strict=True
        ):
            was_lost = row["status"] == Status.REJECTED and row["output_key"] is None
            found.lost += was_lost and status == Status.EDITED
    return found


def refilter(output: Store, filtering: Filtering) -> Refiltered:
    """Publishes every shard of an output anew with other filters.

    Killed at any point, the same call goes on, and so does a run with these filters. Shards that
    are published with them already are left as they are. No other driver may be at work.

    Raises:
        OSError: the output cannot be read or written.
    """
    output.put(FILTERS_FILE, FiltersInForce(filtering.texts, applied=False).to_json())
    done = Refiltered()
    for shard, state in sorted(output_state(output).items()):
        try:
            if state.published:
                anew = _republish(output, shard, filtering)
            else:  # all of its parts may be staged: a run was killed before its marker
                anew = publish_if_complete(output, shard, filtering=filtering) is not None
        except (ValueError, FileNotFoundError) as error:
            done.problems.append(f"shard {shard}: not published with the new filters: {error}")
        else:
            done.shards += [shard] if anew else []
    sweep(output)  # the parts of a shard whose publishing was killed after its marker
    if not done.problems:
        output.put(FILTERS_FILE, FiltersInForce(filtering.texts).to_json())
    return done


def complete_refilter(plan: Plan) -> list[str]:
    """Goes on with a ``refilter`` that was killed; returns its problems, a line each."""
    saved = read_filters(plan.output)
    if saved is None or saved.applied:
        return []
    return refilter(plan.output, plan.config.filtering).problems


def _published(output: Store) -> list[str]:
    return sorted(name for name, state in output_state(output).items() if state.published)


def _republish(output: Store, shard: str, filtering: Filtering) -> bool:
    """Whether the shard had to be published anew."""
    stats = read_marker(output, shard)
    if stats is None or stats.filters == filtering.fingerprint:
        return False
    rows = read_rows(output, stats)
    if sum(stats.part_rows) != len(rows):
        raise NotTheSameError("its marker does not say which rows are of which part")
    if apply_filters(unfiltered(rows), filtering).equals(rows):  # the same rows, tars and reasons
        output.put(marker_name(shard), replace(stats, filters=filtering.fingerprint).to_json())
        return False
    generation = read_generation(output, shard)
    starts = [sum(stats.part_rows[:number]) for number in range(stats.num_parts + 1)]
    for index, (start, end) in enumerate(pairwise(starts)):
        stage_part(output, generation, index, generation.rows[start:end], with_totals=index == 0)
    output.delete(marker_name(shard))
    return publish_if_complete(output, shard, stats.num_parts, filtering) is not None
