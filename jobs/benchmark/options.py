"""The options of ``overpaint benchmark``, parsed before torch is imported."""

from __future__ import annotations

import argparse
from pathlib import Path

DTYPES = ("float32", "bfloat16", "float16")


def add_arguments(bench: argparse.ArgumentParser) -> None:
    """Adds the options of the command."""
    bench.add_argument("overrides", nargs="*", metavar="key=value", help="e.g. method.steps=20")
    bench.add_argument(
        "--model", default="bundled", help="a folder, bundled, or random:sd15, sdxl, sd3, flux"
    )
    bench.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto")
    bench.add_argument("--dtype", choices=DTYPES, default="float32")
    bench.add_argument("--baseline-dtype", choices=DTYPES, help="default: that of --dtype")
    bench.add_argument("--threads", type=positive, default=2, help="on a CPU; default: 2")
    bench.add_argument("--edits", type=positive, default=16, help="per run; default: 16")
    bench.add_argument(
        "--baseline-edits", type=positive, default=4, help="per run of the baseline; default: 4"
    )
    bench.add_argument("--repeats", type=positive, default=3, help="of every loop; default: 3")
    bench.add_argument(
        "--whole", action="store_true", help="also time the whole job in one process"
    )
    bench.add_argument("--compiled", action="store_true", help="also time a compiled baseline")
    bench.add_argument(
        "--time-limit",
        type=float,
        dest="time_limit_s",
        metavar="SECONDS",
        help="start no loop that would end later than this; results are written as they come",
    )
    bench.add_argument(
        "--models", type=Path, help="where random models are kept; default: next to --out"
    )
    bench.add_argument(
        "--sweep",
        action="append",
        default=[],
        help="measure a curve instead: batch, size, steps, edits or region; repeatable",
    )
    bench.add_argument("--out", type=Path, default=Path("runs/benchmark/result"))


def positive(text: str) -> int:
    """A whole number of 1 or more, as the type of an argument."""
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"must be at least 1, not {value}")
    return value
