"""The arguments of ``overpaint evaluate``, read before torch and Ray are loaded."""

from __future__ import annotations

import argparse

from pipeline.evaluation.curves import METHODS, RATIOS, UNLESS_NAMED

BENCHMARKS = ("pie-bench", "tedbench", "imagenet", "demo", "augmentation")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of ``overpaint evaluate``."""
    parser.add_argument("benchmark", choices=BENCHMARKS)
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="e.g. method.steps=20")
    parser.add_argument("--data", help="the benchmark's own folder")
    parser.add_argument("--config", help="a YAML file, or a bundled one: demo, or augment_demo")
    parser.add_argument("--out", help="default: runs/evaluate/BENCHMARK")
    parser.add_argument("--limit", type=int, default=0, help="tasks; 0 = all")
    parser.add_argument("--split", choices=("dev", "test", "all"), default="test", help="imagenet")
    parser.add_argument("--sweep", action="store_true", help="several methods over their ratios")
    parser.add_argument("--ratios", type=_numbers, default=list(RATIOS), metavar="R,R,...")
    parser.add_argument(
        "--methods", type=_names, default=list(UNLESS_NAMED), metavar="NAME,NAME,..."
    )


def _numbers(text: str) -> list[float]:
    return [float(word) for word in text.split(",")]


def _names(text: str) -> list[str]:
    names = [word.strip() for word in text.split(",")]
    unknown = [name for name in names if name not in METHODS]
    if unknown:
        raise argparse.ArgumentTypeError(f"{unknown[0]!r}; there are {', '.join(METHODS)}")
    return names
