"""Measures what bfloat16 costs and gains on a CPU, edit by edit, beside float32.

    python -m infra.benchmarks.precision --edits 1024 --out infra/benchmarks/precision.json

The bundled model makes the same edits in both dtypes, batch by batch in turn, masks included. The
scene reader tells which succeeded; an edit without a mask has not. The JSON is written after each
batch, so a run that is stopped keeps its results.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from jobs.benchmark.machine import describe_machine
from jobs.benchmark.paired import paired_difference
from pipeline.config.load import load_config
from pipeline.config.method import Method
from pipeline.config.model import Model
from pipeline.config.stages import Stage
from pipeline.demo.editor import masked_part
from pipeline.demo.edits import Edit, sample_edit
from pipeline.demo.readback import confirms_edit, load_reader, read_images
from pipeline.demo.world import paint
from pipeline.models.loading import LatentDiffusion, load_model
from pipeline.stages.build import stage_class

Dtype = Literal["float32", "bfloat16"]
DTYPES: tuple[Dtype, ...] = ("float32", "bfloat16")
BATCH = 32
PLACES = ["input.shards=in", "output.path=out"]  # a config must name them; nothing is read


def main() -> None:
    """Measures both dtypes; prints and writes the results."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--model", default="bundled")
    parser.add_argument("--edits", type=int, default=1024)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path)
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="of configs/demo.yaml")
    arguments = parser.parse_args()
    method = load_config("demo", [*PLACES, *arguments.overrides]).method
    stage = Stage(threads=arguments.threads, micro_batch=BATCH)
    models = {
        dtype: load_model(Model(path=arguments.model, dtype=dtype), "cpu", stage)
        for dtype in DTYPES
    }
    report: dict[str, Any] = {
        "machine": describe_machine("cpu", arguments.threads),
        "model_revision": models["float32"].info.revision,
        "method": method.model_dump(mode="json"),
    }

    def write(found: dict[str, Any]) -> None:
        if arguments.out is not None:
            arguments.out.write_text(json.dumps(report | found, indent=1) + "\n")

    print(json.dumps(compare(models, method, arguments.edits, write), indent=1))


def compare(
    models: dict[Dtype, LatentDiffusion],
    method: Method,
    count: int,
    write: Callable[[dict[str, Any]], None],
) -> dict[str, Any]:
    """Confirmed edits and CPU seconds of each dtype; calls ``write`` after each batch.

    Returns:
        ``paired``: see ``paired_difference``, bfloat16 beside float32. ``speed_up``: float32's CPU
        seconds over bfloat16's.
    """
    reader = load_reader()
    confirmed: dict[str, list[float]] = {dtype: [] for dtype in DTYPES}
    seconds = dict.fromkeys(DTYPES, 0.0)
    found: dict[str, Any] = {}
    for first in range(0, count, BATCH):
        numbers = range(first, min(first + BATCH, count))
        edits = [sample_edit(0, "heldout", number) for number in numbers]
        for dtype in DTYPES:
            start = time.process_time()
            images = edited(models[dtype], edits, method, first)
            seconds[dtype] += time.process_time() - start
            readings = read_images(reader, np.stack(images))
            confirmed[dtype] += [
                float(confirms_edit(reading, edit))
                for reading, edit in zip(readings, edits, strict=True)
            ]
        pairs = list(zip(confirmed["bfloat16"], confirmed["float32"], strict=True))
        found = {
            "confirmed_share": {dtype: float(np.mean(confirmed[dtype])) for dtype in DTYPES},
            "paired": paired_difference(pairs),
            "cpu_s_an_edit": {dtype: seconds[dtype] / len(pairs) for dtype in DTYPES},
            "speed_up": seconds["float32"] / seconds["bfloat16"],
        }
        write(found)
    return found


def edited(
    model: LatentDiffusion, edits: Sequence[Edit], method: Method, seed: int
) -> list[NDArray[np.uint8]]:
    """The edited images, (H, W, 3) uint8; the original where there is no mask."""
    part = masked_part(model, edits, method, seed=seed)
    for name in ("encode", "decode"):
        part = stage_class(method, name)(model, method, seed)(part)
    return [
        paint(edit.source) if row.image is None else row.image
        for row, edit in zip(part.edits, edits, strict=True)
    ]


if __name__ == "__main__":
    main()
