"""Counts, histograms, stage times, cost and failures of an output, for the page's template."""

from __future__ import annotations

from collections import Counter, defaultdict
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.config.config import Config
from pipeline.config.run import Report
from pipeline.config.stages import STAGES, TIMED_STEPS
from pipeline.records.part import Status
from pipeline.report.outputs import Output, Score
from pipeline.report.packing import Row, reason_of
from pipeline.steps.filter import STAGE as FILTER_STAGE

NUM_BINS = 30
NUM_EXAMPLES = 4  # of each reason
MAX_REASONS = 50


@dataclass(frozen=True)
class Bar:
    """One bin of a histogram: its range, and the number of edited and other rows in it."""

    low: float
    high: float
    edited: int
    other: int


@dataclass(frozen=True)
class Histogram:
    """The values of one score over the rows that were read."""

    score: Score
    bars: list[Bar]
    num_values: int
    num_infinite: int
    low: float
    median: float
    mean: float
    high: float

    @property
    def tallest(self) -> int:
        return max(bar.edited + bar.other for bar in self.bars)


@dataclass(frozen=True)
class Reason:
    """A group of rows that failed or were rejected for one reason."""

    status: str
    reason: str
    count: int
    examples: list[Row]


def counts(found: Output) -> dict[str, int]:
    """The number of edits by status, over all published shards."""
    total: Counter[str] = Counter({str(status): 0 for status in Status})
    for marker in found.markers.values():
        total.update(marker.counts)
    return dict(total)


def stage_table(found: Output) -> list[dict[str, Any]]:
    """Seconds and network evaluations by step in order, summed over all published shards."""
    seconds: Counter[str] = Counter()
    evals: Counter[str] = Counter()
    for marker in found.markers.values():
        seconds.update(marker.seconds)
        evals.update(marker.num_evals)
    names = [*TIMED_STEPS, *sorted(set(seconds) - set(TIMED_STEPS))]
    longest = max(seconds.values(), default=0.0) or 1.0
    return [
        {
            "name": name,
            "seconds": seconds[name],
            "share": seconds[name] / longest,
            "num_evals": evals.get(name),
        }
        for name in names
    ]


def cost(found: Output, settings: Report) -> dict[str, Any]:
    """Busy device-hours of the stages' actors, and their cost.

    An actor's seconds are multiplied by the share of a GPU that it reserves. Idle time of actors
    is not in the markers, so it is not included.
    """
    devices = sorted({device for marker in found.markers.values() for device in marker.devices})
    hours = 0.0
    for marker in found.markers.values():
        for stage in STAGES:
            share = 1.0 if marker.devices == ["cpu"] else _gpus(found.config, stage)
            hours += marker.seconds.get(stage, 0.0) * share / 3600
    price = settings.price_per_device_hour
    edits = sum(counts(found).values())
    return {
        "devices": devices,
        "unit": "CPU actor-hours" if devices in ([], ["cpu"]) else "GPU-hours",
        "hours": hours,
        "money": None if price is None else hours * price,
        "per_thousand": None if price is None or not edits else 1000 * hours * price / edits,
        "currency": settings.currency,
    }


def _gpus(config: Config | None, stage: str) -> float:
    if config is None:
        return 1.0
    pools = config.stages_by_pool(config.run.layout)
    pool = next((pool for pool, stages in pools.items() if stage in stages), stage)
    gpus = config.pool_stage(pool).gpus
    return 1.0 if gpus is None else float(gpus)


def histograms(found: Output) -> list[Histogram]:
    """One histogram for every score that any row has."""
    is_edited = pc.equal(found.rows.column("status"), pa.scalar(str(Status.EDITED)))
    edited = np.asarray(is_edited.to_numpy(), np.bool_)
    made = []
    for score in found.scores:
        values = np.asarray(found.rows.column(score.name).to_pandas(), dtype=np.float64)
        histogram = _histogram(score, values, edited)
        if histogram is not None:
            made.append(histogram)
    return made


def _histogram(score: Score, values: np.ndarray, edited: np.ndarray) -> Histogram | None:
    is_finite = np.isfinite(values)
    finite = values[is_finite]
    if not finite.size:
        return None
    low, high = float(finite.min()), float(finite.max())
    edges = np.linspace(low, high, NUM_BINS + 1) if high > low else np.array([low, high])
    edited_counts = _binned(values[is_finite & edited], edges)
    other_counts = _binned(values[is_finite & ~edited], edges)
    bars = [
        Bar(float(left), float(right), int(num_edited), int(num_other))
        for left, right, num_edited, num_other in zip(
            edges[:-1], edges[1:], edited_counts, other_counts, strict=True
        )
    ]
    return Histogram(
        score=score,
        bars=bars,
        num_values=int(finite.size),
        num_infinite=int(np.isinf(values).sum()),
        low=low,
        median=float(np.median(finite)),
        mean=float(finite.mean()),
        high=high,
    )


def _binned(values: np.ndarray, edges: np.ndarray) -> np.ndarray:
    if len(edges) == 2:
        return np.array([values.size])
    return np.histogram(values, edges)[0]


def reasons(found: Output) -> list[Reason]:
    """Failed and rejected edits by reason, most frequent first, with examples.

    Counts come from the markers, so they include all shards. Examples come from the rows that were
    read.
    """
    counted: Counter[tuple[str, str]] = Counter()
    for marker in found.markers.values():
        for kind, count in marker.failures.items():
            counted[str(Status.FAILED), kind] += count
        for name, count in marker.rejections.items():
            counted[str(Status.REJECTED), f"{FILTER_STAGE}: {name}"] += count
    indices: dict[tuple[str, str], list[int]] = defaultdict(list)
    columns = (found.column(name) for name in ("status", "stage", "error"))
    for index, (status, stage, error) in enumerate(zip(*columns, strict=True)):
        reason = reason_of({"status": status, "stage": stage, "error": error})
        if reason is not None:
            indices[status, reason].append(index)
    groups = [
        Reason(
            status=status,
            reason=reason,
            count=max(counted[status, reason], len(indices[status, reason])),
            examples=found.some(indices[status, reason][:NUM_EXAMPLES]),
        )
        for status, reason in {**counted, **indices}
    ]
    return sorted(groups, key=lambda group: (-group.count, group.status, group.reason))[
        :MAX_REASONS
    ]
