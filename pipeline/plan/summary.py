"""The summary of a run, from the markers of its shards."""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict, dataclass, field
from typing import Any

from pipeline.config.stages import SCORE_STAGE, TIMED_STEPS
from pipeline.plan.plan import Plan
from pipeline.records.part import Status
from pipeline.records.run_files import RunFileError
from pipeline.steps.marker import ShardStats
from pipeline.storage.layout import marker_name
from pipeline.storage.readers import in_threads


@dataclass(frozen=True)
class PlanOutcome:
    """What the plan of a run expected, beside what came of it. Seconds, hours and images/s."""

    layout: str
    actors: dict[str, int]  # by pool
    wall_s: float | None  # expected
    device_hours: float | None  # expected
    images_per_s: float | None  # expected, once all pools work
    images_per_s_after_start: float | None  # actual, from the first part to the last one
    ratio: float | None  # actual over expected


@dataclass
class RunSummary:
    """The end of a run in numbers: what is printed, and ``_run/summary.json``."""

    fingerprint: str
    published: int  # shards
    to_do: int
    counts: dict[str, int]  # rows by status
    failures: dict[str, int]  # failed rows by "stage: kind of error", most frequent first
    problems: dict[str, str]  # by shard: why its input could not be read completely
    seconds: dict[str, float]  # by step, summed over workers
    num_evals: dict[str, int]  # network evaluations, by stage
    halvings: dict[str, int]  # of the micro-batch, by stage
    wall_s: float  # of this invocation, start-up included
    images_per_s: float  # likewise
    edits_computed_now: int  # by this invocation
    left_out: int = 0  # rows of samples with files that input.pass_through leaves out
    cut_masks: int = 0  # edited rows whose mask meets the border of the model's crop
    plan: PlanOutcome | None = None
    unreadable: dict[str, str] = field(default_factory=dict)  # by shard: why its marker is none
    # graphs that this invocation's stages compiled after the warm-up; None: none were counted
    compilations: dict[str, int] | None = None

    @property
    def edits(self) -> int:
        """Rows of all published shards."""
        return sum(self.counts.values())

    @property
    def failed_share(self) -> float:
        """Failed rows over all that are not skipped; 0 without rows."""
        wanted = self.edits - self.counts.get(Status.SKIPPED, 0)
        return self.counts.get(Status.FAILED, 0) / wanted if wanted else 0.0

    @property
    def cut_mask_share(self) -> float:
        """The share of the edited rows whose mask meets the border of the model's crop."""
        edited = self.counts.get(Status.EDITED, 0)
        return round(self.cut_masks / edited, 4) if edited else 0.0

    def to_tree(self) -> dict[str, Any]:
        """JSON-able, as it is written."""
        tree = asdict(self)
        shards = {"published": tree.pop("published"), "to_do": tree.pop("to_do")}
        share = {"cut_mask_share": self.cut_mask_share}
        return tree | {"shards": shards, "edits": self.edits} | share


def summarize(
    plan: Plan,
    wall_s: float,
    num_edits_now: int,
    outcome: PlanOutcome | None = None,
    compilations: dict[str, int] | None = None,
) -> RunSummary:
    """Sums the markers of the published shards of this run.

    Args:
        plan: the plan at the end of the run.
        wall_s: seconds that this invocation took, start-up included.
        num_edits_now: edits that this invocation computed.
        outcome: of the plan, if something was computed.
        compilations: of the network by stage, after the actors' start, if they were counted.
    """
    output = plan.output
    counts: Counter[str] = Counter({str(status): 0 for status in Status})
    seconds: Counter[str] = Counter()
    evals: Counter[str] = Counter()
    halvings: Counter[str] = Counter()
    failures: Counter[str] = Counter()
    cut_masks = left_out = 0
    problems: dict[str, str] = {}
    unreadable: dict[str, str] = {}
    for name, blob in in_threads(lambda name: output.get(marker_name(name)), plan.published):
        try:
            marker = ShardStats.from_json(blob, f"{output.url}/{marker_name(name)}")
        except RunFileError as error:
            unreadable[name] = str(error)
            continue
        if marker.problem:
            problems[name] = marker.problem
        counts.update(marker.counts)
        failures.update(marker.failures)
        seconds.update(marker.seconds)
        evals.update(marker.num_evals)
        halvings.update(marker.halvings)
        cut_masks += marker.cut_masks
        left_out += marker.left_out
    return RunSummary(
        fingerprint=plan.fingerprint,
        published=len(plan.published),
        to_do=len(plan.work),
        counts=dict(counts),
        failures=dict(failures.most_common()),
        problems=problems,
        seconds={name: round(seconds[name], 3) for name in TIMED_STEPS if _ran(name, seconds)},
        num_evals=dict(evals),
        halvings=dict(halvings),
        wall_s=round(wall_s, 3),
        images_per_s=round(num_edits_now / wall_s, 3) if wall_s > 0 else 0.0,
        edits_computed_now=num_edits_now,
        left_out=left_out,
        cut_masks=cut_masks,
        plan=outcome,
        unreadable=unreadable,
        compilations=compilations,
    )


def _ran(step: str, seconds: Counter[str]) -> bool:
    """Whether the run has this step: only the score stage is optional."""
    return step != SCORE_STAGE or step in seconds
