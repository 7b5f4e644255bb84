"""Measures the gain of prefetch and write-behind threads in the local loop, at a megapixel.

    python -m infra.benchmarks.beside --out infra/benchmarks/beside.json

The local loop edits one shard of 1024 px JPEGs into PNGs, in turn with and without its threads. The
stages invert the image and sleep as long as a GPU would compute, without Python's lock. Everything
else is the real work: reading, decoding, composite, scores, encoding, publishing. Both forms must
write the same tar.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from jobs.benchmark.machine import describe_machine
from jobs.benchmark.work import draw_samples, write_input
from pipeline.config.load import parse_config
from pipeline.execution.local_loop import IMAGES, run_loop
from pipeline.plan.plan import make_plan
from pipeline.records.part import Part

SIZE, PART_SIZE = 1024, 4
FORMS = {"one thread": False, "threads beside": True}


def main() -> None:
    """Draws the shard, times both forms for each wait, writes the JSON."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--edits", type=int, default=16)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument(
        "--waits", type=float, nargs="+", default=[0.0, 0.25], help="seconds per edit"
    )
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    report: dict[str, Any] = {
        "edits": arguments.edits,
        "picture_side": SIZE,
        "pictures_at_once": IMAGES,
        "machine": describe_machine("cpu", 1),
        "loops": [],
    }
    with tempfile.TemporaryDirectory(prefix="overpaint-beside-") as home:
        write_input(Path(home) / "00000.tar", noisy_samples(arguments.edits))
        for wait_s in arguments.waits:
            report["loops"].append(compare(home, arguments.edits, wait_s, arguments.repeats))
            print(json.dumps(report["loops"][-1], indent=1), flush=True)
    if arguments.out is not None:
        arguments.out.write_text(json.dumps(report, indent=1) + "\n")


def compare(home: str, edits: int, wait_s: float, repeats: int) -> dict[str, Any]:
    """Edits per second of both forms, in turn, and the ratio of their medians."""
    rates: dict[str, list[float]] = {name: [] for name in FORMS}
    tars = set()
    for _ in range(repeats):
        for name, beside in FORMS.items():
            with tempfile.TemporaryDirectory(dir=home, prefix="out-") as output:
                seconds = run_once(home, output, wait_s, beside=beside)
                tars.add(hashlib.sha256(Path(output, "00000.tar").read_bytes()).hexdigest())
            rates[name].append(round(edits / seconds, 3))
    assert len(tars) == 1, "the bytes depend on the threads"
    medians = {name: statistics.median(values) for name, values in rates.items()}
    ratio = medians["threads beside"] / medians["one thread"]
    return {"stages_s_an_edit": wait_s, "edits_per_s": rates, "ratio_of_medians": round(ratio, 2)}


def run_once(home: str, output: str, wait_s: float, *, beside: bool) -> float:
    """Edits the shard; returns the seconds until it is published."""
    tree = {
        "input": {"shards": f"{home}/*.tar"},
        "output": {"path": output, "format": "png"},
        "model": {"size": SIZE},
        "run": {"part_size": PART_SIZE},
    }

    def stages(part: Part) -> Part:
        for image in part.samples:
            for edit in image.pending:
                assert image.image is not None
                edit.image, edit.mask = 255 - image.image, half_mask()
                time.sleep(wait_s)
        return part

    plan = make_plan(parse_config(tree), "cpu")
    start = time.perf_counter()
    assert run_loop(plan, stages={"decode": stages}, beside=beside).work == []
    return time.perf_counter() - start


def half_mask() -> np.ndarray:
    """An edit mask, (h, w) float32, of a square near the middle of the grid."""
    mask = np.zeros((SIZE // 8, SIZE // 8), np.float32)
    mask[SIZE // 32 : SIZE // 12, SIZE // 32 : SIZE // 12] = 1
    return mask


def noisy_samples(number: int) -> list[Any]:
    """Scenes of the demo world with fine noise, so that they compress like photographs."""
    samples = []
    for seed, sample in enumerate(draw_samples(number, 1, SIZE)):
        noise = np.random.default_rng(seed).integers(-6, 7, sample.image.shape)
        image = (sample.image.astype(int) + noise).clip(0, 255).astype(np.uint8)
        smooth = Image.fromarray(image).resize((SIZE // 2, SIZE // 2)).resize((SIZE, SIZE))
        samples.append(
            type(sample)(sample.key, np.asarray(smooth), sample.caption, sample.edit_texts)
        )
    return samples


if __name__ == "__main__":
    main()
