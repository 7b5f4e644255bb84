"""`_run/cut_shards.json`: the shards that ``input.limit`` cut short, so that it can be changed.

A limit ends inside at most one shard. What an output holds of that shard, staged or published, is
its first edits only. A later run with another limit finds the shard here and computes it anew.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field

from pipeline.records.run_files import Count, parse_record
from pipeline.steps.staged_parts import delete_staged
from pipeline.storage.layout import ShardState, marker_name
from pipeline.storage.store import Store

CUTS_FILE = "_run/cut_shards.json"
REMEDY = "restore it, or name another output.path"


@dataclass(frozen=True)
class Cuts:
    """What ``input.limit`` leaves of shards: in this run, and in what the output holds.

    Attributes:
        record: edits by shard, as this run writes them down. A shard that is not in it is whole.
        outdated: shards of this run that the output holds with other edits than are wanted, and
            how many of the first ones it holds; None: all.
    """

    record: dict[str, int] = field(default_factory=dict)
    outdated: dict[str, int | None] = field(default_factory=dict)

    @property
    def lines(self) -> list[str]:
        """A line for each shard that is computed anew, with the reason."""
        return [
            f"shard {shard}: the output has "
            + ("parts of the whole shard" if had is None else f"its first {had} edits only")
            + ", because of another input.limit; it is computed anew"
            for shard, had in sorted(self.outdated.items())
        ]


def saved_cuts(output: Store) -> dict[str, int]:
    """The record that an earlier run wrote; empty if no limit has cut a shard.

    Raises:
        RunFileError: it cannot be used.
    """
    try:
        data = output.get(CUTS_FILE)
    except FileNotFoundError:
        return {}
    return parse_record(data, f"{output.url}/{CUTS_FILE}", dict[str, Count], remedy=REMEDY)


def compare_cuts(
    saved: Mapping[str, int],
    wanted: Mapping[str, int],
    shards: Collection[str],
    state: Mapping[str, ShardState],
) -> Cuts:
    """Compares what the output holds with what this run asks for.

    A published shard stays as it is under a lower limit: it holds what is wanted, and more. Staged
    parts of other edits are not used, but a complete set of them would be published.

    Args:
        saved: from ``saved_cuts``.
        wanted: edits of the shards that this run's limit cuts.
        shards: all shards of this run.
        state: of the output.
    """
    record = dict(saved)
    outdated: dict[str, int | None] = {}
    for shard in shards:
        had, want, held = saved.get(shard), wanted.get(shard), state.get(shard)
        if held is not None and held.published:
            is_outdated = had is not None and (want is None or want > had)
        else:
            is_outdated = held is not None and had != want
        if is_outdated:
            outdated[shard] = had
        if is_outdated or held is None:
            record.pop(shard, None)
            if want is not None:
                record[shard] = want
    return Cuts(record, outdated)


def apply_cuts(output: Store, cuts: Cuts) -> None:
    """Removes what is outdated in the output, then records this run's cuts.

    In this order a run that is killed in between finds the rest outdated again.
    """
    for shard in cuts.outdated:
        output.delete(marker_name(shard))
        delete_staged(output, shard)
    if cuts.record != saved_cuts(output):
        output.put(CUTS_FILE, (json.dumps(cuts.record, indent=2, sort_keys=True) + "\n").encode())
