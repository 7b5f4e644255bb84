"""How many edits a run has left, estimated from the parts that it has seen."""

from __future__ import annotations

from pipeline.plan.plan import Plan
from pipeline.records.staged import PartResult


class EditsLeft:
    """Counts what is left, as parts are staged.

    A shard says how many parts it has with its first part. Shards of which none has come yet are
    estimated by their bytes, so that many small ones do not count as much as a few large ones.
    """

    def __init__(self, plan: Plan) -> None:
        """
        Args:
            plan: its ``work`` is what is left at the start.
        """
        self.inputs = plan.inputs
        # With input.limit every shard's edits were counted, and nothing has to be estimated.
        counted = [work.max_edits for work in plan.work if work.max_edits is not None]
        self.limit = sum(counted) if len(counted) == len(plan.work) else None
        self.edits_before = plan.config.run.part_size * sum(work.num_staged for work in plan.work)
        self.staged = {work.shard.name: work.staged for work in plan.work if work.staged}
        self.bytes_unseen = sum(work.shard.size for work in plan.work)
        self.bytes_seen = 0
        self.parts_seen = 0  # all parts of the shards that were seen
        self.parts_left: dict[str, int] = {}  # of shards that were seen and are incomplete
        self.parts_done = self.edits_done = 0

    def update(self, result: PartResult) -> None:
        """Counts a part that was staged now."""
        self.parts_done += 1
        self.edits_done += result.num_edits
        if result.shard not in self.parts_left and not self._see(result):
            return
        self.parts_left[result.shard] -= 1
        if self.parts_left[result.shard] <= 0:
            del self.parts_left[result.shard]

    def _see(self, result: PartResult) -> bool:
        """Notes how many parts a shard has. Returns False if that is not known."""
        shard, (generation, num_parts, _) = self.inputs.get(result.shard), result.part_id
        if shard is None or not num_parts:
            return False
        staged = [part for part in self.staged.get(result.shard, ()) if part[0] == generation]
        self.parts_left[result.shard] = num_parts - len(staged)
        self.parts_seen += num_parts
        self.bytes_seen += shard.size
        self.bytes_unseen -= shard.size
        return True

    @property
    def edits_per_byte(self) -> float:
        """Of the shards that were seen; 0: not known."""
        if not self.parts_done or not self.bytes_seen:
            return 0.0
        return self.parts_seen / self.bytes_seen * self.edits_done / self.parts_done

    def estimate(self) -> float | None:
        """About how many edits are left; None before the first part."""
        if self.limit is not None:
            return max(0.0, self.limit - self.edits_before - self.edits_done)
        if not self.edits_per_byte:
            return None
        unseen = max(0, self.bytes_unseen) * self.parts_seen / self.bytes_seen
        parts = sum(self.parts_left.values()) + unseen
        return parts * self.edits_done / self.parts_done
