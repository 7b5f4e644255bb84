"""Measures what images of many shapes cost: the stages over 64 shapes, and over as many squares.

    python -m infra.benchmarks.buckets --out infra/benchmarks/buckets.json

The bundled model edits the same scenes as squares of its own size, and each in another shape from
1:4 to 4:1 with ``model.buckets: auto``, in turn. A part's edits are computed by size, so most
shapes are batches of one image. The masks have no floor: every edit is encoded and decoded.
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

OVERRIDES = ["input.shards=in", "output.path=out", "run.part_size=64", "method.mask.floor=0"]


def main() -> None:
    """Draws the images, times both forms in turn, writes the JSON."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--images", type=int, default=64)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path)
    parser.add_argument("overrides", nargs="*", metavar="key=value")
    arguments = parser.parse_args()
    threads = [f"stages.{name}.threads={arguments.threads}" for name in STAGES]
    config = load_config("demo", [*OVERRIDES, *threads, *arguments.overrides])
    report = compare(config, arguments.images, arguments.repeats)
    report["machine"] = describe_machine("cpu", arguments.threads)
    print(json.dumps(report, indent=1))
    if arguments.out is not None:
        arguments.out.write_text(json.dumps(report, indent=1) + "\n")


def compare(config: Config, images: int, repeats: int) -> dict[str, Any]:
    """Edits per second of both forms, in turn, by wall clock and by CPU, and their ratios."""
    loop = BareLoop(config, "cpu")
    auto = config.model.model_copy(update={"buckets": "auto"})
    sizes = loop.model.info.sizes_for(auto)
    squares = draw_samples(images, 1, sizes.side)
    forms = {"squares": squares, "shapes": in_shapes(squares, sizes)}
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
        "ratio_of_medians": ratio(rates),
        "edits_per_cpu_s": cpu_rates,
        "ratio_of_cpu_medians": ratio(cpu_rates),
    }


def ratio(rates: dict[str, list[float]]) -> float:
    """The rate of the shapes over that of the squares."""
    return round(statistics.median(rates["shapes"]) / statistics.median(rates["squares"]), 3)


def in_shapes(samples: list[BenchmarkSample], sizes: Sizes) -> list[BenchmarkSample]:
    """The same scenes, each stretched to another shape's size."""
    shapes = np.exp(np.linspace(-math.log(WIDEST), math.log(WIDEST), len(samples)))
    return [
        replace(sample, image=_stretched(sample.image, sizes.of((round(1000 * shape), 1000))))
        for sample, shape in zip(samples, shapes, strict=True)
    ]


def _stretched(image: np.ndarray, size: Size) -> np.ndarray:
    return np.asarray(Image.fromarray(image).resize(size, Image.Resampling.LANCZOS))


if __name__ == "__main__":
    main()
