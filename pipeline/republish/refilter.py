"""``overpaint refilter``: applies other filters to published shards without recomputing an image.

A published shard holds everything that its staged parts held; rejected images are in their own tar.
So ``refilter`` stages all parts of a shard again, deletes the marker, and publishes the shard with
the new filters like any other. pipeline/README.md says why this order of calls is safe.
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
from pipeline.steps.marker import read_marker
from pipeline.steps.publish import publish_if_complete
from pipeline.storage.layout import marker_name, output_state, sweep
from pipeline.storage.store import Store

ATTEMPTS = 3  # at staging a shard's parts, if another run removes them meanwhile


@dataclass
class Preview:
    """Counts of published rows by status, now and with other filters."""

    before: Counter[str] = field(default_factory=Counter)
    after: Counter[str] = field(default_factory=Counter)
    lost: int = 0  # rows that the new filters accept, but whose images were not kept


@dataclass
class Refiltered:
    """What ``refilter`` did."""

    shards: list[str] = field(default_factory=list)  # published again
    problems: list[str] = field(default_factory=list)  # one line for each shard left unchanged


def preview(output: Store, filtering: Filtering) -> Preview:
    """Applies other filters to all published rows and counts; changes nothing.

    Raises:
        NotTheSameError: a Parquet file does not match its marker.
    """
    found = Preview()
    for shard in _published(output):
        stats = read_marker(output, shard)
        if stats is None:
            continue
        before = read_rows(output, stats)
        after = apply_filters(unfiltered(before), filtering)
        statuses = [str(status) for status in after.column("status").to_pylist()]
        rows = before.select(["status", "output_key"]).to_pylist()
        found.before.update(str(row["status"]) for row in rows)
        found.after.update(statuses)
        for row, status in zip(rows, statuses, strict=True):
            was_lost = row["status"] == Status.REJECTED and row["output_key"] is None
            found.lost += was_lost and status == Status.EDITED
    return found


def refilter(output: Store, filtering: Filtering) -> Refiltered:
    """Publishes every shard of an output again, with other filters.

    Shards that are already published with these filters are left as they are. After a kill at any
    point, the same call continues, and so does a run with these filters. No other driver may run
    on the output at the same time.

    Raises:
        OSError: the output cannot be read or written.
    """
    output.put(FILTERS_FILE, FiltersInForce(filtering.texts, applied=False).to_json())
    done = Refiltered()
    for shard, state in sorted(output_state(output).items()):
        try:
            if state.published:
                anew = _republish(output, shard, filtering)
            else:  # a run killed before it wrote the marker may have staged all parts
                anew = publish_if_complete(output, shard, filtering) is not None
        except (ValueError, FileNotFoundError) as error:
            done.problems.append(f"shard {shard}: not published with the new filters: {error}")
        else:
            done.shards += [shard] if anew else []
    sweep(output)  # leftover parts of a shard that was killed just after its marker was written
    if not done.problems:
        output.put(FILTERS_FILE, FiltersInForce(filtering.texts).to_json())
    return done


def complete_refilter(plan: Plan) -> list[str]:
    """Continues a ``refilter`` that was killed; returns its problems, one line each."""
    saved = read_filters(plan.output)
    if saved is None or saved.applied:
        return []
    return refilter(plan.output, plan.config.filtering).problems


def _published(output: Store) -> list[str]:
    return sorted(name for name, state in output_state(output).items() if state.published)


def _republish(output: Store, shard: str, filtering: Filtering) -> bool:
    """Publishes a shard with other filters; returns False if its rows and tars stay the same."""
    stats = read_marker(output, shard)
    if stats is None or stats.filters == filtering.fingerprint:
        return False
    rows = read_rows(output, stats)
    if sum(stats.part_rows) != len(rows):
        raise NotTheSameError("its marker does not say which rows belong to which part")
    if apply_filters(unfiltered(rows), filtering).equals(rows):  # then the tars are the same too
        output.put(marker_name(shard), replace(stats, filters=filtering.fingerprint).to_json())
        return False
    generation = read_generation(output, shard)
    starts = [sum(stats.part_rows[:number]) for number in range(stats.num_parts + 1)]
    for _ in range(ATTEMPTS):  # a driver that sweeps takes them for leftovers of a published shard
        for index, (start, end) in enumerate(pairwise(starts)):
            own = generation.rows[start:end]
            stage_part(output, generation, index, own, with_totals=index == 0)
        output.delete(marker_name(shard))
        if publish_if_complete(output, shard, filtering) is not None:
            return True
    raise NotTheSameError(
        "its staged parts were removed by another run, so it is no longer published; end that "
        "run, then overpaint edit computes the shard anew"
    )
