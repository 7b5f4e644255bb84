"""The state of an output, shard by shard, from storage alone: no config, no model, no Ray."""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict, dataclass
from typing import Any, Literal

from pipeline.records.part import Status
from pipeline.records.run_files import NewerVersionError, RunFileError
from pipeline.steps.marker import ShardStats, read_marker
from pipeline.storage.layout import RUN, ShardState, output_state
from pipeline.storage.readers import in_threads
from pipeline.storage.saved_inputs import saved_inputs
from pipeline.storage.store import Store


@dataclass(frozen=True, slots=True)
class ShardStatus:
    """One shard of an output."""

    shard: str
    state: Literal["done", "staged", "to do"]
    staged_parts: int = 0  # 0 once the shard is published
    num_parts: int | None = None  # in all; None while no part is staged
    edits: int = 0  # rows of a published shard
    failed: int = 0  # failed rows among these
    problem: str | None = None  # why the input or the marker could not be read completely


@dataclass(frozen=True)
class OutputStatus:
    """All shards that the output holds or ``_run/inputs.json`` names."""

    shards: list[ShardStatus]  # by name

    @property
    def states(self) -> dict[str, int]:
        """How many shards are done, staged and to do."""
        counts = Counter(shard.state for shard in self.shards)
        return {state: counts[state] for state in ("done", "staged", "to do")}

    def to_tree(self) -> dict[str, Any]:
        """JSON-able: the totals, and a mapping for each shard."""
        return {
            "states": self.states,
            "edits": sum(shard.edits for shard in self.shards),
            "failed": sum(shard.failed for shard in self.shards),
            "shards": [asdict(shard) for shard in self.shards],
        }


def read_status(output: Store) -> OutputStatus:
    """Lists the output once and reads ``_run/inputs.json`` and the markers.

    Raises:
        FileNotFoundError: no run has written here.
        RunFileError: ``_run/inputs.json`` cannot be used.
        OSError: the store cannot be listed or read.
    """
    state = output_state(output)
    inputs = saved_inputs(output)
    if not state and not inputs and not output.list(RUN):
        raise FileNotFoundError("no run has written here")
    names = sorted({*state, *inputs})
    found = in_threads(lambda name: _shard_status(output, name, state.get(name)), names)
    return OutputStatus([shard for _, shard in found])


def _shard_status(output: Store, name: str, state: ShardState | None) -> ShardStatus:
    if state is None:
        return ShardStatus(name, "to do")
    stats: ShardStats | None = None
    if state.published:
        try:
            stats = read_marker(output, name)
        except NewerVersionError as error:
            return ShardStatus(name, "done", problem=f"the marker {error.reason}; {error.remedy}")
        except RunFileError:
            return ShardStatus(name, "done", problem="the marker cannot be read")
    if stats is None:  # not published, or its marker was removed since the listing
        return ShardStatus(name, "staged", *state.progress)
    failed = stats.counts.get(Status.FAILED, 0)
    return ShardStatus(name, "done", 0, stats.num_parts, stats.num_rows, failed, stats.problem)
