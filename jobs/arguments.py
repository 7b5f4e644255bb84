"""The arguments of the command ``overpaint``, parsed before torch and Ray are imported."""

from __future__ import annotations

import argparse
import re
from typing import Any, NoReturn

from jobs.benchmark.options import add_arguments as add_benchmark_arguments
from jobs.benchmark.options import positive
from jobs.evaluate.options import add_arguments as add_evaluate_arguments
from jobs.terminal import safe
from pipeline import __version__
from pipeline.config.spelling import did_you_mean


def parse_arguments(arguments: list[str] | None) -> argparse.Namespace:
    """The parsed options. key=value may precede or follow options; argparse alone refuses that."""
    parser = _parser()
    options, rest = parser.parse_known_args(arguments)
    late = [text for text in rest if "=" in text and not text.startswith("-")]
    if len(late) < len(rest) or (late and not hasattr(options, "overrides")):
        unknown = [text for text in rest if text not in late] or late
        parser.error(f"unrecognized arguments: {safe(' '.join(unknown))}")
    if late:
        options.overrides.extend(late)
    if options.command == "pack":
        _split_sources(options, parser)
    return options


def _split_sources(options: argparse.Namespace, parser: argparse.ArgumentParser) -> None:
    """Tells the sources of ``pack`` from its key=value, which may stand among them."""
    is_key = re.compile(r"[a-z_.]+=").match  # a folder of such a name is written ./a=b
    options.sources = [text for text in options.given if not is_key(text)]
    options.overrides = [*filter(is_key, options.given), *options.overrides]
    if not options.sources:
        parser.error("pack needs a source: a folder of images, a table or COCO's JSON")


class _Parser(argparse.ArgumentParser):
    """Suggests what was probably meant by a misspelt command or choice."""

    def error(self, message: str) -> NoReturn:
        invalid = re.search(r"invalid choice: '(.*)' \(choose from (.*)\)$", message)
        if invalid is not None:
            choices = [name.strip("' ") for name in invalid[2].split(",")]
            message += did_you_mean(invalid[1], choices)
        super().error(message)


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(prog="overpaint", description="Edits image datasets at dataset scale.")
    parser.add_argument("--version", action="version", version=f"overpaint {__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    _add_pack(commands)
    _add_convert(commands)
    _add_runs(commands)
    _add_demo(commands)
    _add_outputs(commands)
    _add_measures(commands)
    return parser


def _add_runs(commands: Any) -> None:
    """Commands that edit shards."""
    edit = commands.add_parser("edit", help="edit the shards that a config names")
    _add_config(edit, "output.path=out")
    edit.add_argument("--dry-run", action="store_true", help="print the plan, compute nothing")
    edit.add_argument(
        "--retry-failed", action="store_true", help="recompute failed edits of published shards"
    )
    edit.add_argument("-v", "--verbose", action="store_true", help="show Ray's messages")
    edit.set_defaults(command="edit")

    plan = commands.add_parser("plan", help="estimate a run of edit: pools, images/s, hours, money")
    _add_config(plan, "run.layout=auto")
    plan.add_argument("-v", "--verbose", action="store_true", help="show Ray's messages")
    plan.set_defaults(command="plan")

    submit = commands.add_parser("submit", help="run edit as a job on a Ray cluster")
    _add_config(submit, "output.path=out")
    submit.add_argument(
        "--address", required=True, help="the address of the cluster's dashboard: http://HOST:8265"
    )
    submit.add_argument(
        "--packages", action="store_true", help="let Ray install the libraries on the nodes"
    )
    submit.add_argument("--no-wait", action="store_true", help="do not follow the job's log")
    submit.set_defaults(command="submit")


def _add_pack(commands: Any) -> None:
    """The command that makes shards of images."""
    pack = commands.add_parser("pack", help="pack images with captions or classes into shards")
    pack.add_argument("output", help="folder or url for the shards")
    pack.add_argument(
        "given",
        nargs="+",
        metavar="SOURCE|key=value",
        help="folders of images, tables of captions, COCO's JSON files; pack.caption=text",
    )
    pack.add_argument("--config", help="a YAML file with these keys")
    pack.add_argument("--dry-run", action="store_true", help="list and count, write nothing")
    pack.set_defaults(command="pack", overrides=[])


def _add_convert(commands: Any) -> None:
    """The command that makes a model's folder of a checkpoint."""
    convert = commands.add_parser(
        "convert", help="make a model's folder of a checkpoint in one file (Stable Diffusion)"
    )
    convert.add_argument("checkpoint", help="a .safetensors file of Stable Diffusion 1, 2 or XL")
    convert.add_argument("folder", help="of the model; new or empty")
    convert.add_argument(
        "--base",
        required=True,
        help="a folder or a hub id of the same kind of model: its configs and tokenizers are taken",
    )
    convert.add_argument("--revision", help="branch, tag or commit of a hub id")
    convert.add_argument(
        "--from-base",
        action="append",
        default=[],
        metavar="PART",
        help="take this part's weights from the base, e.g. vae; repeatable",
    )
    convert.set_defaults(command="convert")


def _add_demo(commands: Any) -> None:
    """Commands of the demo world."""
    demo = commands.add_parser(
        "demo", help="draw input shards and edit them with the bundled model"
    )
    demo.add_argument("overrides", nargs="*", metavar="key=value", help="e.g. run.layout=fused")
    demo.add_argument("--folder", default="runs/demo", help="default: runs/demo")
    demo.add_argument("-v", "--verbose", action="store_true", help="show Ray's messages")
    demo.set_defaults(command="demo")

    data = commands.add_parser("demo-data", help="draw shards of the demo world")
    data.add_argument("output", help="a folder")
    data.add_argument("--shards", type=positive, default=4, help="default: 4")
    data.add_argument("--samples", type=positive, default=64, help="per shard; default: 64")
    data.add_argument("--seed", type=int, default=0, help="default: 0")
    data.set_defaults(command="demo_data")


def _add_outputs(commands: Any) -> None:
    """Commands that read an output, or apply other filters to it."""
    verify = commands.add_parser("verify", help="read everything that is published and check it")
    verify.add_argument("output", help="folder or url of a run's output")
    verify.add_argument(
        "--inputs", action="store_true", help="read the inputs too: are they those that were edited"
    )
    _add_storage_option(verify)
    verify.set_defaults(command="verify")

    status = commands.add_parser("status", help="list shards: done, staged or to do; failed edits")
    status.add_argument("output", help="folder or url of a run's output")
    status.add_argument("--json", action="store_true", help="print JSON")
    _add_storage_option(status)
    status.set_defaults(command="status")

    report = commands.add_parser("report", help="write one HTML page that shows the output")
    report.add_argument("output", help="folder or url of a run's output")
    report.add_argument(
        "overrides", nargs="*", metavar="key=value", help="e.g. report.price_per_device_hour=2.5"
    )
    _add_storage_option(report)
    report.set_defaults(command="report")

    mix = commands.add_parser("mix", help="write originals and edits as a training set, by split")
    _add_mix(mix, "mix", "ratio=0.5, format=coco")
    pairs = commands.add_parser("pairs", help="write pairs of before and after to train an editor")
    _add_mix(pairs, "pairs", "'splits={train: 0.9, test: 0.1}'")

    refilter = commands.add_parser(
        "refilter", help="apply other filters to an output, without recomputing images"
    )
    refilter.add_argument("output", help="folder or url of a run's output")
    refilter.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="FILTER",
        help="e.g. 'clip_directional >= 0.25'; replaces the filter on that score",
    )
    refilter.add_argument(
        "--preset", action="append", default=[], help="add a preset, e.g. instruct_pix2pix"
    )
    refilter.add_argument(
        "--drop", action="append", default=[], metavar="SCORE", help="remove the filters on a score"
    )
    refilter.add_argument("--clear", action="store_true", help="remove all current filters first")
    refilter.add_argument("--dry-run", action="store_true", help="print what would change")
    _add_storage_option(refilter)
    refilter.set_defaults(command="refilter")


def _add_measures(commands: Any) -> None:
    """Commands that measure a method or a machine."""
    evaluate = commands.add_parser("evaluate", help="edit and measure a public benchmark")
    add_evaluate_arguments(evaluate)
    evaluate.set_defaults(command="evaluate")

    bench = commands.add_parser("benchmark", help="compare the speed with diffusers' own DiffEdit")
    add_benchmark_arguments(bench)
    bench.set_defaults(command="benchmark")


def _add_mix(parser: argparse.ArgumentParser, command: str, example: str) -> None:
    parser.add_argument("output", help="folder or url for the training set")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help=f"e.g. {example}")
    parser.add_argument(
        "--edited", action="append", required=True, metavar="RUN", help="output of edit; repeatable"
    )
    parser.add_argument("--config", help="a YAML file with these keys")
    parser.add_argument("--dry-run", action="store_true", help="count, write nothing")
    parser.set_defaults(command=command)


def _add_config(parser: argparse.ArgumentParser, example: str) -> None:
    parser.add_argument("config", help="a YAML file, or the name of a bundled config")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help=f"e.g. {example}")


def _add_storage_option(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--storage-option",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="for fsspec, e.g. endpoint_url=http://localhost:9000; set credentials in the "
        "environment",
    )
