"""Measures how an edit's cost depends on batch, image size, steps, edits per image and mask."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from jobs.benchmark.loops import BareLoop, Timing
from jobs.benchmark.work import draw_samples, parts_of
from pipeline.config.config import Config
from pipeline.config.stages import STAGES
from pipeline.records.part import Part

MASK_AREAS = (0.1, 0.2, 0.5)


@dataclass(frozen=True)
class Point:
    """One point of a curve: a config, and the parts that are edited with it."""

    x: float
    config: Config
    parts: Callable[[], list[Part]]
    series: str = "full"


def run_sweep(
    name: str, loop: BareLoop, size: int, num_edits: int, repeats: int
) -> list[dict[str, Any]]:
    """Measures all points in turn, ``repeats`` times; the shortest time counts.

    With two repeats or more, the warm-up in the first one does not count.

    Args:
        name: a key of ``SWEEPS``.
        loop: gives the networks, and the config that the points change.
        size: side of the images in pixels.
        num_edits: per point.
        repeats: of every point.

    Returns:
        A row for each point: x, series, and seconds per edit, in total and by stage.
    """
    points = list(SWEEPS[name](loop.config, size, num_edits))
    timings: list[list[Timing]] = [[] for _ in points]
    for _ in range(repeats):
        for point, results in zip(points, timings, strict=True):
            results.append(loop.with_config(point.config).run_parts(point.parts()))
            print(f"{name} {point.series} {point.x:g}: {results[-1].stage_seconds}", flush=True)
    rows = []
    for point, results in zip(points, timings, strict=True):
        best = min(results, key=lambda timing: timing.seconds)
        row = {"sweep": name, "series": point.series, "x": point.x, "edits": best.edits}
        row["s_per_edit"] = best.seconds / best.edits
        row["cpu_s_per_edit"] = min(one.cpu_seconds for one in results) / best.edits
        row |= {
            f"{stage}_s_per_edit": min(one.stage_seconds[stage] for one in results) / best.edits
            for stage in STAGES
        }
        rows.append(row)
    return rows


def _batches(config: Config, size: int, num_edits: int) -> Iterator[Point]:
    for rows in (1, 2, 4, 8, 16, 32, 64):
        yield Point(rows, _with_micro_batch(config, rows), _work(num_edits, 1, size))


def _sizes(config: Config, size: int, num_edits: int) -> Iterator[Point]:
    for factor in (0.5, 1, 1.5, 2):
        side = int(size * factor)
        changed = config.model.model_copy(update={"size": side})
        yield Point(
            side**2, config.model_copy(update={"model": changed}), _work(num_edits, 1, side)
        )


def _steps(config: Config, size: int, num_edits: int) -> Iterator[Point]:
    for steps in (5, 10, 20, 40):
        yield Point(steps, _with_method(config, steps=steps), _work(num_edits, 1, size))


def _edits(config: Config, size: int, num_edits: int) -> Iterator[Point]:
    for edits in (1, 2, 4, 8):
        yield Point(edits, config, _work(max(1, num_edits // edits), edits, size))


def _regions(config: Config, size: int, num_edits: int) -> Iterator[Point]:
    for area in MASK_AREAS:
        for region in ("full", "box"):
            decode = config.method.decode.model_copy(update={"region": region})
            yield Point(
                area,
                _with_method(config, decode=decode),
                _work(num_edits, 1, size, mask_area=area),
                region,
            )


SWEEPS: dict[str, Callable[[Config, int, int], Iterator[Point]]] = {
    "batch": _batches,
    "size": _sizes,
    "steps": _steps,
    "edits": _edits,
    "region": _regions,
}


def _work(
    num_images: int, edits: int, size: int, mask_area: float | None = None
) -> Callable[[], list[Part]]:
    """A function that makes new parts at each call, since a run changes them."""
    samples = draw_samples(num_images, edits, size)

    def make() -> list[Part]:
        parts = parts_of(samples, len(samples) * edits)
        for part in parts:
            for sample in part.samples:
                if mask_area is not None:
                    sample.supplied_mask = square_mask(mask_area, size)
        return parts

    return make


def square_mask(area: float, size: int) -> np.ndarray:
    """A centered square that covers a share of the image: (size, size) uint8, 255 = edit."""
    side = round(math.sqrt(area) * size)
    start = (size - side) // 2
    mask = np.zeros((size, size), np.uint8)
    mask[start : start + side, start : start + side] = 255
    return mask


def _with_method(config: Config, **changes: Any) -> Config:
    return config.model_copy(update={"method": config.method.model_copy(update=changes)})


def _with_micro_batch(config: Config, rows: int) -> Config:
    stages = {
        name: getattr(config.stages, name).model_copy(update={"micro_batch": rows})
        for name in STAGES
    }
    return config.model_copy(update={"stages": config.stages.model_copy(update=stages)})
