"""The arguments of ``overpaint evaluate`` and the run that they ask for, without torch and Ray."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Collection, Sequence

from pipeline.config.config import Config
from pipeline.config.load import ConfigError, load_config
from pipeline.demo.edits import KINDS
from pipeline.evaluation.curves import METHODS, RATIOS, UNLESS_NAMED

BENCHMARKS = ("pie-bench", "tedbench", "imagenet", "demo", "augmentation")
# What is measured is what the method made: no second compression, the model's own image.
FIXED = ("output.resolution=model", "output.format=png")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of ``overpaint evaluate``."""
    parser.add_argument("benchmark", choices=BENCHMARKS)
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="e.g. method.steps=20")
    parser.add_argument("--data", help="the benchmark's own folder")
    parser.add_argument(
        "--config",
        help="a YAML file, or a bundled one; default, for the bundled model: demo, or augment_demo",
    )
    parser.add_argument("--out", help="a folder or url; default: runs/evaluate/BENCHMARK")
    parser.add_argument("--limit", type=int, default=0, help="tasks; 0 = all")
    parser.add_argument("--split", choices=("dev", "test", "all"), default="test", help="imagenet")
    parser.add_argument(
        "--inception", metavar="FILE", help="imagenet: FID's Inception, for CSFID (README)"
    )
    parser.add_argument(
        "--real", metavar="PATH", help="imagenet: real images by class, or their means, for CSFID"
    )
    parser.add_argument(
        "--classifier", metavar="PATH", help="imagenet: a folder or hub id, for the accuracy"
    )
    parser.add_argument(
        "--kinds",
        type=_names_of(KINDS),
        metavar="KIND,KIND,...",
        help=f"demo: of {', '.join(KINDS)}; default: color,shape, with --card all",
    )
    parser.add_argument(
        "--card",
        action="store_true",
        help="demo: also what the model's card says: masks, background, the model alone",
    )
    parser.add_argument("--sweep", action="store_true", help="several methods over their ratios")
    parser.add_argument("--ratios", type=_numbers, default=list(RATIOS), metavar="R,R,...")
    parser.add_argument(
        "--methods", type=_names_of(METHODS), default=list(UNLESS_NAMED), metavar="NAME,NAME,..."
    )
    parser.add_argument(
        "--plain", action="store_true", help="one process and no Ray: sooner for a few edits"
    )
    parser.add_argument("-v", "--verbose", action="store_true", help="show Ray's messages")


def home_of(options: argparse.Namespace) -> str:
    """Where everything of an evaluation is written."""
    return (options.out or f"runs/evaluate/{options.benchmark}").rstrip("/")


def config_for(
    options: argparse.Namespace, folder: str = "out", overrides: Sequence[str] = ()
) -> Config:
    """The configuration of one run of the evaluation.

    Args:
        options: as given.
        folder: of its output, in the evaluation's own.
        overrides: over those that were given.

    Raises:
        ConfigError: it is not usable, or not given for another model than the bundled one: the
            demo's ratio and guidance suit no other.
    """
    home = home_of(options)
    places = [f"input.shards={home}/in/*.tar", f"output.path={home}/{folder}"]
    config = load_config(
        options.config or "demo", [*options.overrides, *FIXED, *overrides, *places]
    )
    if not options.config and config.model.path != "bundled":
        raise ConfigError(
            f"model.path={config.model.path!r} needs --config: without it the method has the"
            " settings of demo, which suit model.path=bundled only"
        )
    return config


def _numbers(text: str) -> list[float]:
    return [float(word) for word in text.split(",")]


def _names_of(allowed: Collection[str]) -> Callable[[str], list[str]]:
    """A parser of names with commas between them."""

    def names(text: str) -> list[str]:
        found = [word.strip() for word in text.split(",")]
        unknown = [name for name in found if name not in allowed]
        if unknown:
            raise argparse.ArgumentTypeError(f"{unknown[0]!r}; there are {', '.join(allowed)}")
        return found

    return names
