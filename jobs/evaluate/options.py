"""The arguments of ``overpaint evaluate`` and its runs' configuration, without torch and Ray."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Collection, Sequence

from pipeline.config.config import Config
from pipeline.config.load import ConfigError, load_config
from pipeline.config.spelling import did_you_mean
from pipeline.demo.edits import KINDS
from pipeline.evaluation.curves import DEFAULT_METHODS, METHODS, RATIOS

BENCHMARKS = ("pie-bench", "tedbench", "imagenet", "demo", "augmentation")
# Measure the method's own result: the model's image, without lossy compression.
FIXED = ("output.resolution=model", "output.format=png", "model.buckets=square")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of ``overpaint evaluate``."""
    parser.add_argument("benchmark", choices=BENCHMARKS)
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="e.g. method.steps=20")
    parser.add_argument("--data", help="the benchmark's folder")
    parser.add_argument(
        "--config",
        help="a YAML file, or the name of a bundled config; default, for the bundled model only: "
        "demo (augmentation: its own settings)",
    )
    parser.add_argument("--out", help="a folder or url; default: runs/evaluate/BENCHMARK")
    parser.add_argument("--limit", type=int, default=0, help="number of tasks; 0: all")
    parser.add_argument(
        "--split", choices=("dev", "test", "all"), default="test", help="imagenet; default: test"
    )
    parser.add_argument(
        "--inception", metavar="FILE", help="imagenet: FID's Inception, for CSFID (jobs/README.md)"
    )
    parser.add_argument(
        "--real", metavar="PATH", help="imagenet: real images by class, or their means, for CSFID"
    )
    parser.add_argument(
        "--classifier",
        metavar="PATH",
        help="imagenet: folder or hub id of a classifier, for the accuracy",
    )
    parser.add_argument(
        "--kinds",
        type=_names_of(KINDS),
        metavar="KIND,KIND,...",
        help=f"demo: kinds of edits, of {', '.join(KINDS)}; default: color,shape; with --card: all",
    )
    parser.add_argument(
        "--card",
        action="store_true",
        help="demo: also measure masks, background and the model by itself, for its card",
    )
    parser.add_argument(
        "--sweep", action="store_true", help="measure several methods over their ratios"
    )
    parser.add_argument(
        "--ratios", type=_numbers, default=list(RATIOS), metavar="R,R,...", help="of --sweep"
    )
    parser.add_argument(
        "--methods",
        type=_names_of(METHODS),
        default=list(DEFAULT_METHODS),
        metavar="NAME,NAME,...",
        help="of --sweep",
    )
    parser.add_argument(
        "--plain", action="store_true", help="one process without Ray: faster for a few edits"
    )
    parser.add_argument("-v", "--verbose", action="store_true", help="show Ray's messages")


def home_of(options: argparse.Namespace) -> str:
    """The folder or url of all files of an evaluation."""
    return (options.out or f"runs/evaluate/{options.benchmark}").rstrip("/")


def config_for(
    options: argparse.Namespace, folder: str = "out", overrides: Sequence[str] = ()
) -> Config:
    """The configuration of one run of the evaluation.

    Args:
        options: the parsed arguments.
        folder: the run's output folder, below the evaluation's.
        overrides: applied after those in the arguments.

    Raises:
        ConfigError: the configuration is wrong, or there is no ``--config`` for a model other than
            the bundled one: the demo's ratio and guidance suit only that model.
    """
    home = home_of(options)
    places = [f"input.shards={home}/in/*.tar", f"output.path={home}/{folder}"]
    config = load_config(
        options.config or "demo", [*options.overrides, *FIXED, *overrides, *places]
    )
    if not options.config and config.model.path != "bundled":
        raise ConfigError(
            f"model.path={config.model.path!r} needs --config: the default settings, those of "
            "demo, suit only model.path=bundled"
        )
    return config


def _numbers(text: str) -> list[float]:
    return [float(word) for word in text.split(",")]


def _names_of(allowed: Collection[str]) -> Callable[[str], list[str]]:
    """A parser of comma-separated names."""

    def names(text: str) -> list[str]:
        found = [word.strip() for word in text.split(",")]
        unknown = [name for name in found if name not in allowed]
        if unknown:
            hint = did_you_mean(unknown[0], allowed)
            raise argparse.ArgumentTypeError(
                f"{unknown[0]!r}; allowed are {', '.join(allowed)}{hint}"
            )
        return found

    return names
