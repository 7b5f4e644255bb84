"""The progress of a run: a live bar on a terminal, plain lines elsewhere."""

from __future__ import annotations

import sys
import time
from collections import Counter

import ray
from ray.data import Dataset
from rich.progress import BarColumn, Progress, ProgressColumn, SpinnerColumn, Task, TextColumn
from rich.text import Text

from jobs.edit.edits_left import EditsLeft
from jobs.edit.full_store import FullStore
from jobs.edit.graph import results_of
from jobs.edit.metrics import RunMetrics
from jobs.logs import is_json, note, tell
from jobs.terminal import console
from pipeline.records.staged import PartResult


class _Rates(ProgressColumn):
    """The text after the bar: ``RunProgress.line``."""

    def render(self, task: Task) -> Text:
        return Text(str(task.fields["rates"]))


class RunProgress:
    """Counts parts as they are staged. Use it as a context manager.

    The bar counts shards, since their number is known from the start. The time left is that of the
    edits left, whose number is estimated until every shard was read.
    """

    def __init__(self, num_shards: int, num_done: int, every_s: float, left: EditsLeft) -> None:
        self.left = left
        self.num_shards = num_shards
        self.num_done_before = num_done
        self.published: set[str] = set()  # two parts may both find their shard complete
        self.every_s = every_s
        self.parts = 0
        self.counts: Counter[str] = Counter()
        self.compilations: dict[str, int] = {}  # by stage, after the warm-up
        self.started = self.printed = time.monotonic()
        self.first_part_at: float | None = None
        self.last_part_at = self.started
        self.first_edits = 0  # of the first part
        self.metrics = RunMetrics(num_shards, num_done)
        self.full_store = FullStore()
        self.bar: Progress | None = None
        if sys.stderr.isatty() and not is_json():
            columns = (SpinnerColumn(), TextColumn("{task.description}"), BarColumn(16), _Rates())
            self.bar = Progress(*columns, console=console(stderr=True))

    @property
    def num_done(self) -> int:
        """Published shards, by this invocation and earlier ones."""
        return self.num_done_before + len(self.published)

    def __enter__(self) -> RunProgress:
        if self.bar is not None:
            self.bar.start()
            self.task = self.bar.add_task(
                "shards", total=self.num_shards, completed=self.num_done, rates="starting"
            )
        return self

    def __exit__(self, *error: object) -> None:
        if self.bar is not None:
            self.bar.stop()

    def follow(self, dataset: Dataset) -> None:
        """Runs a Dataset of ``jobs.edit.graph`` to its end and counts the result of each part.

        It iterates over blocks: ``iter_batches`` of Ray 2.60 leaves a thread behind for each
        Dataset unless it prefetches, and with prefetching each result comes one part late.
        """
        with self.full_store.watched():
            for bundle in dataset.iter_internal_ref_bundles():
                for block in ray.get(list(bundle.block_refs)):
                    for result in results_of(block):
                        self.update(result)

    def update(self, result: PartResult) -> None:
        """Counts the result of one staged part."""
        now = time.monotonic()
        if self.first_part_at is None:
            self.first_part_at, self.first_edits = now, result.num_edits
        self.last_part_at = now
        self.parts += 1
        if result.published:
            self.published.add(result.shard)
        self.counts.update(result.counts)
        self.left.update(result)
        note(
            "part staged",
            shard=result.shard,
            part=result.part,
            counts=result.counts,
            seconds=result.seconds,
        )
        self.metrics.count(result, self.counts.total() / max(now - self.started, 1e-9))
        self.metrics.show_shards(self.num_shards, self.num_done)
        if self.bar is not None:
            self.bar.update(self.task, completed=self.num_done, rates=self.line())
        elif now - self.printed >= self.every_s:
            self.printed = now
            tell(f"{self.num_done}/{self.num_shards} shards, {self.line()}")

    @property
    def images_per_s_after_start(self) -> float | None:
        """The rate from the first part to the last one; None for fewer than two parts."""
        if self.first_part_at is None or self.last_part_at <= self.first_part_at:
            return None
        edits = self.counts.total() - self.first_edits
        return edits / (self.last_part_at - self.first_part_at)

    def seconds_left(self, elapsed_s: float) -> float | None:
        """Until the last edit; None if that is not known yet.

        At the rate since the first part, once that is longer ago than the start-up took.
        """
        edits, rate = self.left.estimate(), self.counts.total() / max(elapsed_s, 1e-9)
        if self.first_part_at is not None:
            start_up_s = self.first_part_at - self.started
            if self.last_part_at - self.first_part_at > start_up_s:
                rate = self.images_per_s_after_start or rate
        return edits / rate if edits is not None and rate > 0 else None

    def line(self) -> str:
        """Parts, edits, images/s since the start, time left, failures."""
        elapsed = time.monotonic() - self.started
        edits = self.counts.total()
        words = [
            f"{self.parts} parts",
            f"{edits} edits",
            f"{edits / max(elapsed, 1e-9):.2f} images/s",
        ]
        left_s = self.seconds_left(elapsed)
        if left_s is not None:
            words.append(f"{duration(left_s)} left")
        words.append(f"{self.counts['failed']} failed")
        return ", ".join(words)


def duration(seconds: float) -> str:
    """Seconds in hours, minutes and seconds, e.g. '2 h 05 min'."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes:02d} min"
    return f"{minutes} min {rest:02d} s" if minutes else f"{rest} s"
