"""Measures what images of mixed shapes cost, beside as many squares of the same area.

    python -m infra.benchmarks.buckets --out infra/benchmarks/buckets.json

The bundled model edits some shards' worth of scenes, in turn: as squares of its own size; with
``model.buckets: auto`` in the shapes that photos have (``PHOTOS``); and in 64 shapes, from 1:4 to
4:1. A part's edits are computed by size, and the parts are those of the reader, where like shapes
share one; with ``--parts 1`` a part has all shapes, and small batches. The masks have no floor:
every edit is encoded and decoded.
"""

from __future__ import annotations

import argparse
import copy
import json
import math
import statistics
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from jobs.benchmark.loops import BareLoop
from jobs.benchmark.machine import describe_machine
from jobs.benchmark.work import BenchmarkSample, draw_samples, parts_of
from pipeline.config.buckets import WIDEST, Size, Sizes
from pipeline.config.config import Config
from pipeline.config.load import load_config
from pipeline.config.stages import STAGES

# Images of 64 by shape: mostly those of cameras, and more wide than high.
PHOTOS = {(4, 3): 20, (3, 2): 16, (3, 4): 10, (2, 3): 8, (1, 1): 4, (16, 9): 4, (9, 16): 2}
OVERRIDES = ["input.shards=in", "output.path=out", "run.part_size=64", "method.mask.floor=0"]


def main() -> None:
    """Draws the images, times both forms in turn, writes the JSON."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--parts", type=int, default=4, help="of 64 scenes, of one shard")
    parser.add_argument("--out", type=Path)
    parser.add_argument("overrides", nargs="*", metavar="key=value")
    arguments = parser.parse_args()
    threads = [f"stages.{name}.threads={arguments.threads}" for name in STAGES]
    config = load_config("demo", [*OVERRIDES, *threads, *arguments.overrides])
    report = compare(config, arguments.parts, arguments.repeats)
    report["machine"] = describe_machine("cpu", arguments.threads)
    print(json.dumps(report, indent=1))
    if arguments.out is not None:
        arguments.out.write_text(json.dumps(report, indent=1) + "\n")


def compare(config: Config, parts: int, repeats: int) -> dict[str, Any]:
    """Edits per second of each form, in turn, by wall clock and by CPU, and ratios to squares."""
    loop = BareLoop(config, "cpu")
    auto = config.model.model_copy(update={"buckets": "auto"})
    sizes = loop.model.info.sizes_for(auto)
    of_part = sum(PHOTOS.values())
    images = of_part * parts
    squares = draw_samples(images, 1, sizes.side)
    ratios = np.exp(np.linspace(-math.log(WIDEST), math.log(WIDEST), of_part)).repeat(parts)
    photos = [shape for shape, number in PHOTOS.items() for _ in range(number * parts)]
    forms = {
        "squares": squares,
        "shapes of photos": in_shapes(squares, sizes, photos),
        "64 shapes": in_shapes(squares, sizes, [(round(1000 * r), 1000) for r in ratios]),
    }
    rates: dict[str, list[float]] = {name: [] for name in forms}
    cpu_rates: dict[str, list[float]] = {name: [] for name in forms}
    for number in range(repeats + 1):
        for name, samples in forms.items():
            taken = samples if number else samples[:2]  # the first round warms up
            timing = loop.run_parts(copy.deepcopy(parts_of(taken, config.run.part_size)))
            assert timing.counts == {"edited": len(taken)}
            if number:
                rates[name].append(round(timing.edits_per_s, 3))
                cpu_rates[name].append(round(timing.edits / timing.cpu_seconds, 3))
                print(f"{number}/{repeats} {name}: {rates[name][-1]} edits/s", flush=True)
    return {
        "images": images,
        "method": config.method.model_dump(mode="json"),
        "sizes": {name: len({s.image.shape for s in samples}) for name, samples in forms.items()},
        "megapixels": {
            name: round(sum(math.prod(s.image.shape[:2]) for s in samples) / 1e6, 4)
            for name, samples in forms.items()
        },
        "edits_per_s": rates,
        "ratio_of_medians": ratios_to_squares(rates),
        "edits_per_cpu_s": cpu_rates,
        "ratio_of_cpu_medians": ratios_to_squares(cpu_rates),
    }


def ratios_to_squares(rates: dict[str, list[float]]) -> dict[str, float]:
    """The median rate of each form over that of the squares."""
    medians = {name: statistics.median(values) for name, values in rates.items()}
    return {name: round(median / medians["squares"], 3) for name, median in medians.items()}


def in_shapes(
    samples: list[BenchmarkSample], sizes: Sizes, shapes: list[Size]
) -> list[BenchmarkSample]:
    """The same scenes, each stretched to the size of another shape; in the reader's order."""
    shapes = sorted(shapes, key=lambda shape: shape[0] / shape[1])
    return [
        replace(sample, image=_stretched(sample.image, sizes.of(shape)))
        for sample, shape in zip(samples, shapes, strict=True)
    ]


def _stretched(image: np.ndarray, size: Size) -> np.ndarray:
    return np.asarray(Image.fromarray(image).resize(size, Image.Resampling.LANCZOS))


if __name__ == "__main__":
    main()
