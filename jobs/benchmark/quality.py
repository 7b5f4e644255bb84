"""Measures what faster decoding costs in quality: `python -m jobs.benchmark.quality`.

The same edits with the same masks are decoded in full, in boxes, and with reused features, and with
the whole methods of other configs. The
scene reader tells which edits succeeded, and each setting is compared with the full decode, edit by
edit. The JSON is rewritten after each batch, so a run that is stopped keeps its results.
"""

from __future__ import annotations

import argparse
import copy
import json
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml

from jobs.benchmark.machine import describe_machine
from jobs.benchmark.paired import paired_difference
from pipeline.config.method import Decode, Method, Reuse
from pipeline.config.model import Model
from pipeline.demo.editor import load_demo_model, masked_part
from pipeline.demo.edits import Edit, sample_edit, true_mask
from pipeline.demo.measures import psnr
from pipeline.demo.readback import confirms_edit, confirms_rest, load_reader, read_images
from pipeline.demo.world import paint
from pipeline.models.loading import LatentDiffusion
from pipeline.models.probe import probe_model
from pipeline.records.part import Part
from pipeline.stages.decode import DecodeStage
from pipeline.stages.encode import EncodeStage
from pipeline.stages.region import decoded_shape

KINDS = ("color", "shape", "object")  # edits of one object: those for which a box is useful
MULTIPLE = 4  # the bundled model's UNet halves its grid of 16 cells twice
BATCH = 32

Figures = dict[str, float]  # of one edit
Setting = dict[str, Any]  # of ``method.decode`` or ``method.reuse``, or another whole method


def main() -> None:
    """Measures the settings; prints and writes the results."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="bundled")
    parser.add_argument("--config", type=Path, default=Path("configs/demo.yaml"))
    parser.add_argument("--edits", type=int, default=1024)
    parser.add_argument("--contexts", type=int, nargs="*", default=[1, 2, 3], help="of boxes")
    parser.add_argument("--intervals", type=int, nargs="*", default=[2, 3, 5], help="of reuse")
    parser.add_argument("--layers", type=int, nargs="*", default=[1, 2], help="of reuse")
    parser.add_argument(
        "--encode", action="store_true", help="also measure reuse in encoding, as further rows"
    )
    parser.add_argument(
        "--methods",
        type=Path,
        nargs="*",
        default=[],
        help="configs whose whole method is measured too, with the masks of --config",
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--out", type=Path, default=Path("runs/benchmark/decode_quality.json"))
    options = parser.parse_args()
    method = Method(**yaml.safe_load(options.config.read_text())["method"])
    model = load_demo_model(options.model, threads=options.threads)
    circumstances = {
        "machine": describe_machine("cpu", options.threads),
        "model_revision": probe_model(Model(path=options.model)).revision,
        "kinds": KINDS,
        "method": method.model_dump(mode="json"),
    }
    options.out.parent.mkdir(parents=True, exist_ok=True)

    def write(rows: list[dict[str, Any]]) -> None:
        report = circumstances | {"edits": rows[0]["edits"], "rows": rows}
        options.out.write_text(json.dumps(report, indent=2) + "\n")

    settings = settings_of(options.contexts, options.intervals, options.layers, options.encode)
    settings += [{"method": str(path)} for path in options.methods]
    for row in measure(model, method, options.edits, settings, options.seed, write):
        print(json.dumps(row))


def settings_of(
    contexts: Sequence[int], intervals: Sequence[int], layers: Sequence[int], encode: bool
) -> list[Setting]:
    """All settings to measure; the first is the full decode, with which others are compared."""
    found: list[Setting] = [{"region": "full"}]
    found += [{"region": "box", "context": cells, "multiple": MULTIPLE} for cells in contexts]
    for also in (False, True) if encode else (False,):
        found += [
            {"interval": interval, "layers": number, "encode": also}
            for number in layers
            for interval in intervals
        ]
    return found


def measure(
    model: LatentDiffusion,
    method: Method,
    count: int,
    settings: list[Setting],
    seed: int,
    write: Callable[[list[dict[str, Any]]], None],
) -> list[dict[str, Any]]:
    """A row for each setting; calls ``write`` with all rows after each batch."""
    reader = load_reader()
    found: list[list[Figures]] = [[] for _ in settings]
    rows: list[dict[str, Any]] = []
    for first in range(0, count, BATCH):
        numbers = range(first, min(first + BATCH, count))
        edits = [sample_edit(seed, "heldout", number, kinds=KINDS) for number in numbers]
        masked = masked_part(model, edits, method, seed=first)
        encoded = EncodeStage(model, method, first)(copy.deepcopy(masked))
        for setting, figures in zip(settings, found, strict=True):
            used = with_setting(method, setting)
            part = copy.deepcopy(encoded)
            if used.reuse.encode or "method" in setting:
                part = EncodeStage(model, used, first)(copy.deepcopy(masked))
            figures += _decoded(model, used, part, edits, first, reader)
        rows = [
            setting | summary(figures, found[0])
            for setting, figures in zip(settings, found, strict=True)
        ]
        write(rows)
        print(f"{numbers.stop} of {count} edits", flush=True)
    return rows


def with_setting(method: Method, setting: Setting) -> Method:
    """The method with a setting of ``settings_of``."""
    if "method" in setting:
        other = Method(**yaml.safe_load(Path(setting["method"]).read_text())["method"])
        return other.model_copy(update={"mask": method.mask})
    if "interval" in setting:
        return method.model_copy(update={"reuse": Reuse(**setting)})
    decode = Decode(**(method.decode.model_dump() | setting))
    return method.model_copy(update={"decode": decode})


def summary(figures: list[Figures], full: list[Figures]) -> dict[str, Any]:
    """Means, and the paired difference in confirmed edits from the full decode.

    ``paired`` is over all edits; ``paired_where_boxed`` over those whose box is smaller than the
    grid, since a box can change only these.
    """
    found: dict[str, Any] = {"edits": len(figures)}
    found |= {name: float(np.mean([one[name] for one in figures])) for name in figures[0]}
    pairs = [
        (one["confirmed"], other["confirmed"]) for one, other in zip(figures, full, strict=True)
    ]
    found["paired"] = paired_difference(pairs)
    boxed = [pair for pair, one in zip(pairs, figures, strict=True) if one["grid_share"] < 1.0]
    if boxed:
        found["paired_where_boxed"] = paired_difference(boxed)
    return found


def _decoded(
    model: LatentDiffusion,
    method: Method,
    part: Part,
    edits: list[Edit],
    seed: int,
    reader: torch.nn.Module,
) -> list[Figures]:
    """Decodes a part and measures each edit that has a mask."""
    shapes = [
        decoded_shape(edit.mask, method.decode) if edit.pending and edit.mask is not None else None
        for edit in part.edits
    ]
    start = time.process_time()
    DecodeStage(model, method, seed)(part)
    seconds = (time.process_time() - start) / len(edits)
    done = [
        (row.image, edit, shape)
        for row, edit, shape in zip(part.edits, edits, shapes, strict=True)
        if row.image is not None and shape is not None
    ]
    readings = read_images(reader, np.stack([image for image, _, _ in done]))  # type: ignore[arg-type]
    return [
        {
            "confirmed": float(confirms_edit(reading, edit)),
            "rest": float(confirms_rest(reading, edit)),
            "background_psnr_db": psnr(image, paint(edit.source), ~true_mask(edit)),
            "grid_share": shape[0] * shape[1] / _cells(model) ** 2,
            "decode_cpu_s": seconds,
        }
        for (image, edit, shape), reading in zip(done, readings, strict=True)
    ]


def _cells(model: LatentDiffusion) -> int:
    return model.info.native_size // model.info.latent_scale


if __name__ == "__main__":
    main()
