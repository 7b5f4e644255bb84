"""What a run tells Prometheus, through Ray's exporter.

Edits, evaluations and seconds are counted on the driver as parts come in, so that a part that was
computed twice counts once. What only a worker knows (its GPU's memory, its traffic with the store)
it tells itself. Ray puts ``ray_`` before each name, and ``_total`` behind a counter's.
"""

from __future__ import annotations

import sys
from collections import Counter as Counts
from functools import lru_cache

from ray.util.metrics import Counter, Gauge, Histogram

from pipeline.records.staged import PartResult
from pipeline.storage.traffic import take_traffic

# Seconds a part spends in a step: a tenth of a second (a tiny model) to half an hour.
SECONDS = [0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0, 300.0, 1800.0]


class RunMetrics:
    """The counters of one run; only the driver holds one."""

    def __init__(self, num_shards: int, num_published: int) -> None:
        self.edits = Counter("overpaint_edits", "Edits staged.", ("status",))
        self.parts = Counter("overpaint_parts", "Parts staged.")
        self.evals = Counter("overpaint_network_evaluations", "Of the denoiser.", ("stage",))
        self.seconds = Histogram(
            "overpaint_part_seconds", "A part's time in a step.", SECONDS, ("step",)
        )
        self.halvings = Counter(
            "overpaint_micro_batch_halvings", "After an out-of-memory error.", ("stage",)
        )
        self.lost = Counter("overpaint_parts_lost", "Staged as failed: their worker died, twice.")
        self.shards = Gauge("overpaint_shards", "Of this run.", ("state",))
        self.rate = Gauge("overpaint_images_per_s", "Edits staged a second, since the start.")
        self.show_shards(num_shards, num_published)

    def show_shards(self, num_shards: int, num_published: int) -> None:
        """The number of shards of the run, and of those that are published."""
        self.shards.set(num_shards, {"state": "all"})
        self.shards.set(num_published, {"state": "published"})

    def count(self, result: PartResult, images_per_s: float) -> None:
        """Takes the result of one staged part."""
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
    """Made once a process: a second metric of the same name would be a mistake to Ray."""
    return (
        Counter("overpaint_storage_bytes", "Read from and written to stores.", ("direction",)),
        Counter("overpaint_storage_retries", "Storage calls that were tried again."),
        Gauge("overpaint_gpu_memory_peak_bytes", "Allocated by torch, at most.", ("stage",)),
    )


def tell_traffic() -> None:
    """Adds what this process read, wrote and tried again since it was last asked."""
    traffic: Counts[str] = take_traffic()
    num_bytes, retries, _ = _worker_metrics()
    for direction in ("in", "out"):
        if traffic[direction]:
            num_bytes.inc(traffic[direction], {"direction": direction})
    if traffic["retries"]:
        retries.inc(traffic["retries"])


_gpu_peaks: Counts[str] = Counts()  # bytes, by stage; of this process


def tell_gpu_memory(stage: str) -> None:
    """Sets the most that a stage has held on this process's GPU; nothing where it has none.

    To be called after each run of a stage, since what was held since the last call is taken for
    the stage's: in layout fused one process runs all three. The first one's includes loading.
    """
    torch = sys.modules.get("torch")  # a stage that has not loaded it uses no GPU
    if torch is not None and torch.cuda.is_available():
        _gpu_peaks[stage] = max(_gpu_peaks[stage], torch.cuda.max_memory_allocated())
        torch.cuda.reset_peak_memory_stats()
        _worker_metrics()[2].set(_gpu_peaks[stage], {"stage": stage})
