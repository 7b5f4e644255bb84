"""The Prometheus metrics of a run, exported through Ray.

The driver counts edits, evaluations and seconds as parts come in, so that a part that was computed
twice counts once. Each worker reports what only it knows: its GPU's memory and its traffic with the
store. Ray prefixes each name with ``ray_`` and appends ``_total`` to counters.
"""

from __future__ import annotations

import sys
from collections import Counter as Counts
from functools import lru_cache

from ray.util.metrics import Counter, Gauge, Histogram

from pipeline.records.staged import PartResult
from pipeline.storage.traffic import take_traffic

# Buckets for the seconds of a step on a part: from 0.1 s (a tiny model) to half an hour.
SECONDS = [0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0, 300.0, 1800.0]


class RunMetrics:
    """The metrics of one run; only the driver has them."""

    def __init__(self, num_shards: int, num_published: int) -> None:
        self.edits = Counter("overpaint_edits", "Edits staged.", ("status",))
        self.parts = Counter("overpaint_parts", "Parts staged.")
        self.evals = Counter(
            "overpaint_network_evaluations", "Evaluations of the denoiser.", ("stage",)
        )
        self.seconds = Histogram(
            "overpaint_part_seconds", "Seconds of a step on a part.", SECONDS, ("step",)
        )
        self.halvings = Counter(
            "overpaint_micro_batch_halvings",
            "Halvings of the micro-batch after an out-of-memory error.",
            ("stage",),
        )
        self.lost = Counter(
            "overpaint_parts_lost", "Parts staged as failed because their worker died twice."
        )
        self.shards = Gauge("overpaint_shards", "Shards of this run.", ("state",))
        self.rate = Gauge("overpaint_images_per_s", "Edits staged per second since the start.")
        self.show_shards(num_shards, num_published)

    def show_shards(self, num_shards: int, num_published: int) -> None:
        """Sets the number of shards of the run, and of published ones."""
        self.shards.set(num_shards, {"state": "all"})
        self.shards.set(num_published, {"state": "published"})

    def count(self, result: PartResult, images_per_s: float) -> None:
        """Counts the result of one staged part."""
        self.parts.inc()
        self.rate.set(images_per_s)
        for status, number in result.counts.items():
            self.edits.inc(number, {"status": status})
        for stage, number in result.num_evals.items():
            if number:
                self.evals.inc(number, {"stage": stage})
        for stage, number in result.halvings.items():
            self.halvings.inc(number, {"stage": stage})
        for step, seconds in result.seconds.items():
            self.seconds.observe(seconds, {"step": step})


@lru_cache(maxsize=1)
def _worker_metrics() -> tuple[Counter, Counter, Gauge]:
    """Made once per process: Ray refuses a second metric of the same name."""
    return (
        Counter(
            "overpaint_storage_bytes", "Bytes read from and written to stores.", ("direction",)
        ),
        Counter("overpaint_storage_retries", "Retried storage calls."),
        Gauge("overpaint_gpu_memory_peak_bytes", "Peak of torch's GPU memory.", ("stage",)),
    )


def tell_traffic() -> None:
    """Adds the bytes and retries of this process's storage calls since the last call."""
    traffic: Counts[str] = take_traffic()
    num_bytes, retries, _ = _worker_metrics()
    for direction in ("in", "out"):
        if traffic[direction]:
            num_bytes.inc(traffic[direction], {"direction": direction})
    if traffic["retries"]:
        retries.inc(traffic["retries"])


_gpu_peaks: Counts[str] = Counts()  # of this process: bytes by stage


def tell_gpu_memory(stage: str) -> None:
    """Sets the peak of a stage's memory on this process's GPU, if it has one.

    Call this after each run of a stage: the peak since the last call counts for that stage, since
    with layout fused one process runs all stages. The first stage's peak includes loading.
    """
    torch = sys.modules.get("torch")  # a process that has not imported torch uses no GPU
    if torch is not None and torch.cuda.is_available():
        _gpu_peaks[stage] = max(_gpu_peaks[stage], torch.cuda.max_memory_allocated())
        torch.cuda.reset_peak_memory_stats()
        _worker_metrics()[2].set(_gpu_peaks[stage], {"stage": stage})
