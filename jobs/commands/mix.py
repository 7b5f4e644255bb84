"""``overpaint mix`` and ``overpaint pairs``: write originals and edits as a training set."""

from __future__ import annotations

import shlex
import sys
from typing import Any

from jobs import exit_codes
from jobs.edit.paths import is_relative
from jobs.edit.writable import check_writable
from jobs.terminal import show, show_table
from pipeline.config.load import ConfigError, apply_override, load_tree, parse_settings
from pipeline.config.mix import Mix
from pipeline.mix.marker import MANIFEST, MixedShard
from pipeline.mix.mix import run_mix
from pipeline.mix.plan import MixPlan, make_mix_plan
from pipeline.mix.survey import MixError
from pipeline.mix.totals import instances_name
from pipeline.plan.run_folder import CONFIG_FILE, read_config
from pipeline.records.run_files import RunFileError
from pipeline.storage.store import Store


def mix_outputs(
    output: str,
    edited: list[str],
    config: str | None,
    overrides: list[str],
    *,
    dry_run: bool,
    pairs: bool = False,
) -> int:
    """Mixes the originals of one or several edited outputs with their edits.

    Args:
        output: folder or url of the training set.
        edited: outputs of ``overpaint edit``.
        config: a YAML file with the settings of ``pipeline/config/mix.py``; None: the defaults.
        overrides: "key=value", e.g. "ratio=0.5".
        dry_run: count, and write nothing.
        pairs: write pairs of before and after, in every split.

    Returns:
        The exit code: 1 if a storage error or a changed input interrupted the mix.

    Raises:
        ConfigError: the settings, the originals and the outputs do not match.
    """
    try:
        mix, hint = _settings(output, edited, config, overrides, pairs=pairs)
    except (ValueError, OSError) as error:
        raise ConfigError(str(error) or type(error).__name__) from error
    try:
        plan = make_mix_plan(mix)
    except (ValueError, OSError) as error:
        text = str(error) or type(error).__name__
        raise ConfigError(text + (hint if "input.shards" in text else "")) from error
    check_writable(plan.output)
    _print_plan(plan)
    if dry_run:
        return 0
    try:
        manifest = run_mix(plan, _Progress(len(plan.shards)))
    except RunFileError:  # of a newer version: running again does not help
        raise
    except MixError as error:  # nor does it here: what is mixed has changed
        show(f"overpaint: {error}", to=sys.stderr)
        return exit_codes.INCOMPLETE
    except (ValueError, OSError) as error:
        show(f"overpaint: {error}; run the same command to resume", to=sys.stderr)
        return exit_codes.INCOMPLETE
    _print_manifest(plan, manifest)
    return 0


def _settings(
    output: str, edited: list[str], config: str | None, overrides: list[str], *, pairs: bool
) -> tuple[Mix, str]:
    """The settings; those of ``input`` default to the ones of the first output's run.

    Also what to add to an error about the input, where that run's relative paths were taken.
    """
    given: dict[str, Any] = {} if config is None else load_tree(config)
    for override in overrides:
        apply_override(given, override)
    for section, place in (("output", {"path": output}), ("edited", {"paths": edited})):
        given[section] = {**given.get(section, {}), **place}
    if pairs:
        given = _as_pairs(given)
    first = Store(edited[0], given["edited"].get("storage_options"))
    first.check_reachable()
    try:
        saved = read_config(first).input.model_dump(mode="json")
    except FileNotFoundError:
        raise ConfigError(
            f"{edited[0]}: there is no {CONFIG_FILE}, so it is no run's output"
        ) from None
    own = given.get("input", {})
    given["input"] = {**saved, **own}
    hint = "" if "shards" in own else _relative_hint(saved["shards"], edited[0])
    return parse_settings(given, Mix), hint


def _as_pairs(given: dict[str, Any]) -> dict[str, Any]:
    """The settings of pairs; all splits have edits, unless ``edits_in`` says otherwise."""
    if given.get("format", "pairs") != "pairs":
        raise ConfigError(
            f"format={given['format']!r}: overpaint pairs writes pairs; overpaint mix the others"
        )
    splits = given.get("splits")
    every = {"edits_in": list(splits)} if isinstance(splits, dict) else {}
    return {**every, **given, "format": "pairs"}


def _relative_hint(shards: str | list[str], run: str) -> str:
    """What to do if the shards are not found, where a run names them by relative paths."""
    entries = [shards] if isinstance(shards, str) else shards
    if not any(is_relative(entry) for entry in entries):
        return ""
    return (
        f"; {run} names its input relative to the folder where it was run: "
        f"input.shards={shards!r}. Mix there, or give input.shards= with the path of the originals"
    )


class _Progress:
    """Prints a line after each tenth of the shards, and one for each object that was damaged."""

    def __init__(self, total: int) -> None:
        self.total, self.done = total, 0

    def __call__(self, mixed: MixedShard, mended: list[str]) -> None:
        for line in mended:
            show(f"warning: shard {mixed.shard}: {line}; it is written anew", to=sys.stderr)
        self.done += 1
        tenths = [10 * count // self.total for count in (self.done - 1, self.done)]
        if tenths[0] != tenths[1]:
            show(f"{self.done} of {self.total} shards")


def _print_plan(plan: MixPlan) -> None:
    rows = []
    for name in plan.mix.splits:
        counts = [plan.total(what, name) for what in ("images", "take")]
        row = [name, *map(str, counts)]
        if name in plan.mix.edited_splits:
            row += [str(plan.wanted(name)), str(plan.total("available", name))]
        rows.append(row)
    show_table(("split", "originals", "edits", "wanted", "available"), rows)
    for name in plan.mix.edited_splits:
        wanted, taken, ratio = plan.wanted(name), plan.total("take", name), plan.mix.ratio
        if taken < wanted and ratio is not None:
            show(
                f"warning: {name}: ratio={ratio:g} asks for {wanted} edits, but only "
                f"{taken} are available; give each a weight of {plan.weight(name):g} in training "
                "to compensate"
            )


def _print_manifest(plan: MixPlan, manifest: dict[str, Any]) -> None:
    for key, what in (("pictures", "images"), ("edits", "edits")):
        for reason, count in manifest[key]["left_out"].items():
            show(f"{what} left out: {count}: {reason}")
    kept = manifest["edits"]["with_the_class_of_their_source"]
    if kept:
        show(
            f"warning: {kept} edits keep the .{plan.mix.label_member} of their source; if the edit "
            "texts change the class, set labels='{word: class, ...}'"
        )
    if plan.mix.format == "coco":
        for split, found in manifest["splits"].items():
            if found["shards"] and not plan.output.exists(instances_name(split)):
                show(f"{split}: no image has boxes, so there is no {instances_name(split)}")
    for shard, problem in manifest["problems"].items():
        show(f"warning: shard {shard}: {problem}", to=sys.stderr)
    show(f"{plan.output.url}/{MANIFEST}")
    show(f"next: overpaint verify {shlex.quote(plan.output.url)}")
