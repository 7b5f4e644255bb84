"""``overpaint pack``: packs images with captions, classes or boxes into WebDataset shards."""

from __future__ import annotations

import shlex
import sys
from contextlib import AbstractContextManager, nullcontext

from jobs import exit_codes
from jobs.commands.pack_on_ray import OnRay, wants_ray
from jobs.edit.writable import check_writable
from jobs.terminal import show
from pipeline.config.load import ConfigError, apply_override, load_tree, parse_settings
from pipeline.config.pack import Packing
from pipeline.pack.plan import PackPlan, make_pack_plan
from pipeline.pack.record import PackedShard
from pipeline.pack.write import Packed, Spread, run_pack
from pipeline.records.run_files import RunFileError


def pack_sources(
    output: str, sources: list[str], config: str | None, overrides: list[str], *, dry_run: bool
) -> int:
    """Packs sources into the shards of an output.

    Args:
        output: folder or url of the shards.
        sources: folders, tables or COCO's JSON files.
        config: a YAML file with the settings of ``pipeline/config/pack.py``; None: the defaults.
        overrides: "key=value", e.g. "pack.caption=text".
        dry_run: list and count, and write nothing.

    Returns:
        The exit code: 1 if more than ``pack.max_left_out_share`` is left out, or a storage error
        interrupted the pack.

    Raises:
        ConfigError: the settings, the sources and the output do not match.
    """
    tree = {} if config is None else load_tree(config)
    for override in overrides:
        apply_override(tree, override)
    for section, place in (("output", {"path": output}), ("source", {"paths": sources})):
        tree[section] = {**tree.get(section, {}), **place}
    packing = parse_settings(tree, Packing)
    try:
        plan = make_pack_plan(packing)
    except RunFileError:
        raise
    except (ValueError, OSError) as error:
        raise ConfigError(str(error) or type(error).__name__) from error
    check_writable(plan.output)
    _print_plan(plan)
    if dry_run:
        for line in plan.left_out.lines():
            show(f"left out: {line}")
        return 0
    spread: AbstractContextManager[Spread]
    spread = OnRay(packing) if wants_ray(packing) and plan.shards else nullcontext(map)
    try:
        with spread as spread_over:
            packed = run_pack(plan, _Progress(len(plan.shards)), spread_over)
    except RunFileError:  # of a newer version: running again does not help
        raise
    except OSError as error:
        show(f"overpaint: {error}; run the same command to resume", to=sys.stderr)
        return exit_codes.INCOMPLETE
    return _print_packed(plan, packed)


class _Progress:
    """Prints a line after each tenth of the shards."""

    def __init__(self, total: int) -> None:
        self.total, self.done = total, 0

    def __call__(self, packed: PackedShard) -> None:
        self.done += 1
        tenths = [10 * count // self.total for count in (self.done - 1, self.done)]
        if tenths[0] != tenths[1]:
            show(f"{self.done} of {self.total} shards")


def _print_plan(plan: PackPlan) -> None:
    for found in plan.found:
        show(found.what)
    show(f"{len(plan.items)} samples in {len(plan.shards)} shards: {plan.output.url}")


def _print_packed(plan: PackPlan, packed: Packed) -> int:
    """What was packed and left out, and the next command; returns the exit code."""
    for line in packed.left_out.lines():
        show(f"left out: {line}")
    show(f"{packed.samples} samples packed in {packed.shards} shards, {packed.bytes / 1e6:.1f} MB")
    show(f"next: {_next_command(plan)}")
    allowed = plan.packing.pack.max_left_out_share
    if packed.share_left_out <= allowed:
        return 0
    show(
        f"overpaint: {packed.left_out.total} images and rows were left out, "
        f"{packed.share_left_out:.2%} of all; pack.max_left_out_share={allowed:g} allows "
        f"{allowed:.2%}",
        to=sys.stderr,
    )
    return exit_codes.INCOMPLETE


def _next_command(plan: PackPlan) -> str:
    """``overpaint edit``, with substitutions to fill in where no sample has an edit text."""
    shards = shlex.quote(f"input.shards={plan.output.url}/*.tar")
    target = shlex.quote(f"output.path={plan.output.url}-edited")
    command = f"overpaint edit diffedit_sd15_512 {shards} {target}"
    if not any(item.edits for item in plan.items):
        command += " input.substitutions='{dog: [cat, fox]}'"
    return command
