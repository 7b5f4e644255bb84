"""Measure the demo model and DiffEdit on it: `python -m jobs.evaluate.demo_card` prints a table.

Writes evaluation.json (every figure), evaluation.md (the tables, for the model card) and
evaluation.png (a contact sheet) into `--out`.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from pipeline.config.load import load_config
from pipeline.demo.editor import Outcome, load_demo_model
from pipeline.demo.edits import Edit
from pipeline.demo.evaluation import (
    METHODS,
    RATIOS,
    edit_figures,
    measure_edits,
    measure_generation,
    measure_reconstruction,
    measure_sweep,
)
from pipeline.demo.readback import load_reader
from pipeline.demo.world import paint

# What the issue asks for, by the figure's name.
WANTED = {
    "vae_psnr_db": 30.0,
    "reader_accuracy": 0.99,
    "generated_one_object": 0.95,
    "generated_two_objects": 0.80,
    "color_mask_iou": 0.75,
    "shape_mask_recall": 0.80,
    "shape_mask_precision": 0.40,
    "color_confirmed": 0.85,
    "shape_confirmed": 0.75,
    "rest_confirmed": 0.97,
    "background_psnr_below_vae_db": 1.0,
}
SMALLER_IS_BETTER = ("background_psnr_below_vae_db",)


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="bundled", help="a folder, or the bundled model")
    parser.add_argument("--config", type=Path, default=Path("configs/demo.yaml"))
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="of the config")
    parser.add_argument("--edits", type=int, default=512)
    parser.add_argument("--pictures", type=int, default=256, help="generated, and read back")
    parser.add_argument("--sweep-edits", type=int, default=40, help="for each ratio and method")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("runs/train_demo"))
    parser.add_argument("--threads", type=int, default=2)
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    report = measure(arguments)
    (arguments.out / "evaluation.json").write_text(json.dumps(report, indent=2) + "\n")
    (arguments.out / "evaluation.md").write_text(tables(report))
    print(tables(report))


def measure(arguments: argparse.Namespace) -> dict[str, Any]:
    """Everything that the table holds, and what it was measured with."""
    started, count, seed = time.monotonic(), arguments.samples, arguments.seed
    model, reader = load_demo_model(arguments.model, threads=arguments.threads), load_reader()
    method = load_config(arguments.config, arguments.overrides).method
    figures = measure_reconstruction(model, reader, count, seed)
    figures |= measure_generation(model, reader, count, seed)
    print(json.dumps(figures), flush=True)
    seen: list[tuple[Edit, Outcome]] = []

    def after_batch(edits: list[Edit], done: list[Outcome]) -> None:
        seen.extend(zip(edits, done, strict=True))
        print(f"edits {len(seen)} of {arguments.edits}", flush=True)

    rows = measure_edits(
        model, reader, method, count=arguments.edits, seed=seed, after_batch=after_batch
    )
    figures |= edit_figures(rows)
    print(json.dumps(figures), flush=True)
    draw_sheet(seen[:20], arguments.out / "evaluation.png")
    sweep = measure_sweep(model, reader, method, count=arguments.sweep_edits, seed=seed + 1)
    return {
        "figures": figures,
        "wanted": WANTED,
        "sweep": sweep,
        "method": method.model_dump(mode="json"),
        "edits": arguments.edits,
        "pictures": count,
        "sweep_edits": arguments.sweep_edits,
        "seed": seed,
        "seconds": round(time.monotonic() - started),
    }


def draw_sheet(pairs: list[tuple[Edit, Outcome]], path: Path) -> None:
    """A column an edit: input, mask, edit, truth."""
    columns = []
    for edit, outcome in pairs:
        mask = np.kron(outcome.mask, np.full((8, 8), 255)).astype(np.uint8)
        parts = [paint(edit.source), np.dstack([mask] * 3), outcome.image, paint(edit.target)]
        columns.append(np.concatenate(parts))
    Image.fromarray(np.concatenate(columns, axis=1)).save(path)


def tables(report: dict[str, Any]) -> str:
    """The figures and the trade-off as Markdown."""
    lines = ["| figure | measured | wanted | |", "|---|---|---|---|"]
    for name, value in report["figures"].items():
        wanted = WANTED.get(name)
        if wanted is None:
            lines.append(f"| {name} | {value:.3f} | | |")
            continue
        met = value <= wanted if name in SMALLER_IS_BETTER else value >= wanted
        lines.append(f"| {name} | {value:.3f} | {wanted} | {'met' if met else 'not met'} |")
    counts = (
        f"{report['edits']} held-out edits of all kinds in turn; {report['images'] // 2} captions"
        f" of one object and of two; {report['sweep_edits']} edits for each cell below;"
        f" seed {report['seed']}."
    )
    lines += ["", counts, "", f"Method: `{json.dumps(report['method'])}`", ""]
    names = [f"{ratio}" for ratio in RATIOS]
    for column, title in (
        ("confirmed", "edits confirmed"),
        ("background_psnr_db", "background, dB"),
    ):
        lines += [f"| {title}, r = | {' | '.join(names)} |", "|---" * (len(names) + 1) + "|"]
        for method in METHODS:
            values = [f"{row[column]:.2f}" for row in report["sweep"] if row["method"] == method]
            lines.append(f"| {method} | {' | '.join(values)} |")
        lines.append("")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
