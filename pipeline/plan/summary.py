"""The summary of a run, from the markers of its shards."""

from __future__ import annotations

import json
from collections import Counter
from typing import Any

from pipeline.config.stages import SCORE_STAGE, TIMED_STEPS
from pipeline.plan.plan import Plan
from pipeline.records.part import Status
from pipeline.storage.layout import marker_name
from pipeline.storage.readers import in_threads


def summarize(plan: Plan, wall_s: float, num_edits_now: int) -> dict[str, Any]:
    """Sums the markers of the published shards of this run.

    Args:
        plan: the plan at the end of the run.
        wall_s: seconds that this invocation took, start-up included.
        num_edits_now: edits that this invocation computed.

    Returns:
        JSON-able: shards, counts by status, problems by shard, seconds by step, evaluations by
        stage, halvings of the micro-batch by stage, wall seconds and images/s of this invocation.
    """
    output = plan.output
    counts: Counter[str] = Counter({str(status): 0 for status in Status})
    seconds: Counter[str] = Counter()
    evals: Counter[str] = Counter()
    halvings: Counter[str] = Counter()
    problems: dict[str, str] = {}
    for name, blob in in_threads(lambda name: output.get(marker_name(name)), plan.published):
        marker = json.loads(blob)
        if marker.get("problem"):
            problems[name] = marker["problem"]
        counts.update(marker["counts"])
        seconds.update(marker["seconds"])
        evals.update(marker["num_evals"])
        halvings.update(marker["halvings"])
    return {
        "fingerprint": plan.fingerprint,
        "shards": {"published": len(plan.published), "to_do": len(plan.work)},
        "counts": dict(counts),
        "edits": counts.total(),
        "problems": problems,
        "seconds": {name: round(seconds[name], 3) for name in TIMED_STEPS if _ran(name, seconds)},
        "num_evals": dict(evals),
        "halvings": dict(halvings),
        "wall_s": round(wall_s, 3),
        "images_per_s": round(num_edits_now / wall_s, 3) if wall_s > 0 else 0.0,
        "edits_computed_now": num_edits_now,
    }


def _ran(step: str, seconds: Counter[str]) -> bool:
    """Whether the run has this step: only the score stage is optional."""
    return step != SCORE_STAGE or step in seconds
