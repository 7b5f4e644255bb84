"""What region decoding costs in quality: `python -m jobs.benchmark_quality` on the bundled model.

The same masks and trajectories are decoded whole and in boxes; the scene reader says which edits
are there afterwards. Writes a JSON with a row for each setting.
"""

from __future__ import annotations

import argparse
import copy
import json
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml

from jobs.benchmark_machine import describe_machine
from pipeline.demo.editor import load_demo_model, masked_part
from pipeline.demo.edits import Edit, sample_edit, true_mask
from pipeline.demo.measures import psnr
from pipeline.demo.readback import confirms_edit, confirms_rest, load_reader, read_pictures
from pipeline.demo.world import paint
from pipeline.models.loading import LatentDiffusion
from pipeline.models.probe import probe_model
from pipeline.steps.decode import DecodeStage
from pipeline.steps.encode import EncodeStage
from pipeline.steps.region import decoded_shape
from pipeline.words.config import Method, Model
from pipeline.words.records import Part

KINDS = ("color", "shape", "object")  # edits of one object: what a box is for
MULTIPLE = 4  # the bundled model's UNet halves its grid of 16 cells twice
BATCH = 32


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="bundled")
    parser.add_argument("--config", type=Path, default=Path("configs/demo.yaml"))
    parser.add_argument("--edits", type=int, default=192)
    parser.add_argument("--contexts", type=int, nargs="+", default=[1, 2, 3, 4])
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--out", type=Path, default=Path("runs/benchmark/region_quality.json"))
    options = parser.parse_args()
    method = Method(**yaml.safe_load(options.config.read_text())["method"])
    model = load_demo_model(options.model, threads=options.threads)
    rows = measure_regions(model, method, options.edits, options.contexts, options.seed)
    report = {
        "machine": describe_machine("cpu", options.threads),
        "model_revision": probe_model(Model(path=options.model)).revision,
        "edits": options.edits,
        "kinds": KINDS,
        "method": method.model_dump(mode="json"),
        "rows": rows,
    }
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps(report, indent=2) + "\n")
    for row in rows:
        print(json.dumps(row))


def measure_regions(
    model: LatentDiffusion, method: Method, count: int, contexts: list[int], seed: int
) -> list[dict[str, Any]]:
    """Full decoding first, then boxes with each context; all on the same masks."""
    reader = load_reader()
    settings: list[dict[str, Any]] = [{"region": "full"}]
    settings += [{"region": "box", "context": cells, "multiple": MULTIPLE} for cells in contexts]
    found: list[list[dict[str, float]]] = [[] for _ in settings]
    for first in range(0, count, BATCH):
        numbers = range(first, min(first + BATCH, count))
        edits = [sample_edit(seed, "heldout", number, kinds=KINDS) for number in numbers]
        part = EncodeStage(model, method, first)(masked_part(model, edits, method, seed=first))
        for setting, rows in zip(settings, found, strict=True):
            decode = method.decode.model_copy(update=setting)
            used = method.model_copy(update={"decode": decode})
            rows += _decoded(model, used, copy.deepcopy(part), edits, first, reader)
        print(f"{numbers.stop} of {count} edits", flush=True)
    return [
        setting
        | {name: float(np.mean([row[name] for row in rows])) for name in rows[0]}
        | {"edits": len(rows)}
        for setting, rows in zip(settings, found, strict=True)
    ]


def _decoded(
    model: LatentDiffusion,
    method: Method,
    part: Part,
    edits: list[Edit],
    seed: int,
    reader: torch.nn.Module,
) -> list[dict[str, float]]:
    """Figures of each edit that has a mask."""
    shapes = [
        decoded_shape(edit.mask, method.decode) if edit.pending and edit.mask is not None else None
        for edit in part.edits
    ]
    start = time.perf_counter()
    DecodeStage(model, method, seed)(part)
    seconds = (time.perf_counter() - start) / len(edits)
    done = [
        (row.image, edit, shape)
        for row, edit, shape in zip(part.edits, edits, shapes, strict=True)
        if row.image is not None and shape is not None
    ]
    readings = read_pictures(reader, np.stack([image for image, _, _ in done]))  # type: ignore[arg-type]
    return [
        {
            "confirmed": float(confirms_edit(reading, edit)),
            "rest": float(confirms_rest(reading, edit)),
            "background_psnr_db": psnr(image, paint(edit.source), ~true_mask(edit)),
            "grid_share": shape[0] * shape[1] / _cells(model) ** 2,
            "decode_s": seconds,
        }
        for (image, edit, shape), reading in zip(done, readings, strict=True)
    ]


def _cells(model: LatentDiffusion) -> int:
    return model.info.native_size // model.info.latent_scale


if __name__ == "__main__":
    main()
