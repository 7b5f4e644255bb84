"""The command ``overpaint``: runs a subcommand, prints errors in one line, returns exit codes."""

from __future__ import annotations

import argparse
import importlib.util
import os
import sys
from pathlib import Path

from jobs import exit_codes
from jobs.arguments import parse_arguments
from jobs.evaluate.options import config_for, home_of
from jobs.logs import tell, use_format
from jobs.ray_environment import set_ray_environment
from jobs.stoppable import Command, resumable, stoppable
from jobs.terminal import let_go
from pipeline.config.load import ConfigError, load_config
from pipeline.records.run_files import RunFileError


def main(arguments: list[str] | None = None) -> int:
    """Entry point of ``overpaint``."""
    options = parse_arguments(arguments)
    use_format("text")  # until the config says otherwise
    if not getattr(options, "verbose", False):
        _quieten_libraries()
    try:
        code = COMMANDS[options.command](options)
    except (ConfigError, RunFileError) as error:
        tell(f"overpaint: {error}", level="error")
        code = exit_codes.BAD_CONFIG
    lost = let_go()
    if lost is not None and _is_asked_for_text(options):
        tell(f"overpaint: stdout: {lost.strerror}; lines of it are lost", level="error")
        return code or exit_codes.INCOMPLETE
    return code


def _is_asked_for_text(options: argparse.Namespace) -> bool:
    """Whether what a command prints is all that it does."""
    return options.command in PRINTING or getattr(options, "dry_run", False)


def _quieten_libraries() -> None:
    """Makes diffusers and transformers log errors only, here and in local workers.

    Otherwise, at each load of a model, they advise against packages and dtypes that are intended.
    Both read these variables when they are imported.
    """
    for library in ("DIFFUSERS", "TRANSFORMERS"):
        os.environ.setdefault(f"{library}_VERBOSITY", "error")


# The functions below import what they need: torch and Ray take seconds to import, and an error in
# the config should not wait for them.


def _edit(options: argparse.Namespace) -> int:
    config = load_config(options.config, options.overrides)
    set_ray_environment(config)
    if options.dry_run:
        from jobs.edit.driver import dry_run

        return dry_run(config)

    def run() -> int:
        from jobs.edit.driver import edit

        return edit(config, verbose=options.verbose, retry_failed=options.retry_failed)[0]

    return resumable(options, run)


def _plan(options: argparse.Namespace) -> int:
    config = load_config(options.config, options.overrides)
    set_ray_environment(config)
    from jobs.edit.planner import print_plan

    return print_plan(config, verbose=options.verbose)


def _submit(options: argparse.Namespace) -> int:
    config = load_config(options.config, options.overrides)
    from jobs.commands.submit import submit

    return submit(config, options.address, packages=options.packages, wait=not options.no_wait)


def _verify(options: argparse.Namespace) -> int:
    from jobs.commands.verify import verify_output

    return verify_output(options.output, options.storage_option, inputs=options.inputs)


def _status(options: argparse.Namespace) -> int:
    from jobs.commands.status import print_status

    return print_status(options.output, options.storage_option, as_json=options.json)


def _report(options: argparse.Namespace) -> int:
    from jobs.commands.report import report_output

    return report_output(options.output, options.storage_option, options.overrides)


@stoppable
def _refilter(options: argparse.Namespace) -> int:
    from jobs.commands.refilter import refilter_output

    return refilter_output(
        options.output,
        options.storage_option,
        given=[*({"preset": name} for name in options.preset), *options.set],
        dropped=options.drop,
        clear=options.clear,
        dry_run=options.dry_run,
    )


@stoppable
def _mix(options: argparse.Namespace) -> int:
    from jobs.commands.mix import mix_outputs

    return mix_outputs(
        options.output,
        options.edited,
        options.config,
        options.overrides,
        dry_run=options.dry_run,
        pairs=options.command == "pairs",
    )


@stoppable
def _pack(options: argparse.Namespace) -> int:
    from jobs.commands.pack import pack_sources

    return pack_sources(
        options.output,
        options.sources,
        options.config,
        options.overrides,
        dry_run=options.dry_run,
    )


@stoppable
def _convert(options: argparse.Namespace) -> int:
    from jobs.commands.convert import convert_checkpoint

    return convert_checkpoint(
        options.checkpoint,
        options.folder,
        options.base,
        revision=options.revision,
        from_base=options.from_base,
    )


def _evaluate(options: argparse.Namespace) -> int:
    if options.benchmark == "augmentation":
        return _evaluate_augmentation(options)
    set_ray_environment(config_for(options))

    def run() -> int:
        from jobs.evaluate.command import evaluate

        return evaluate(options)

    return resumable(options, run)


def _evaluate_augmentation(options: argparse.Namespace) -> int:
    if importlib.util.find_spec("jobs.augmentation") is None:
        raise ConfigError(
            "evaluate augmentation needs a checkout: the installed package is without "
            "jobs/augmentation"
        )
    from jobs.augmentation.command import evaluate_augmentation
    from jobs.edit.writable import check_writable
    from pipeline.storage.store import Store

    check_writable(Store(home_of(options)))
    return evaluate_augmentation(options.config, options.overrides, Path(home_of(options)))


def _demo(options: argparse.Namespace) -> int:
    folder = options.folder
    places = [f"input.shards={folder}/in/*.tar", f"output.path={folder}/out"]
    config = load_config("demo", [*places, *options.overrides])
    set_ray_environment(config)

    def run() -> int:
        from jobs.commands.demo import demo

        return demo(config, Path(folder), verbose=options.verbose)

    return resumable(options, run)


def _demo_data(options: argparse.Namespace) -> int:
    from jobs.commands.demo import demo_data

    return demo_data(options.output, options.shards, options.samples, options.seed)


def _benchmark(options: argparse.Namespace) -> int:
    from jobs.benchmark.command import Options, benchmark

    values = {name: value for name, value in vars(options).items() if name != "command"}
    for name in ("overrides", "sweep"):
        values[name] = tuple(values[name])
    return benchmark(Options(**values))


PRINTING = frozenset({"plan", "verify", "status"})
COMMANDS: dict[str, Command] = {
    "edit": _edit,
    "plan": _plan,
    "submit": _submit,
    "demo": _demo,
    "demo_data": _demo_data,
    "verify": _verify,
    "status": _status,
    "report": _report,
    "refilter": _refilter,
    "mix": _mix,
    "pairs": _mix,
    "pack": _pack,
    "convert": _convert,
    "evaluate": _evaluate,
    "benchmark": _benchmark,
}


if __name__ == "__main__":
    sys.exit(main())
