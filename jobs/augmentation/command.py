"""``overpaint evaluate augmentation``: do edits undo the bias of a training set?

The output folder has in/ with the biased set; out/<method>/ with its edits and mixed/<method>/
with both, as ``overpaint edit`` and ``overpaint mix`` write them; trainings.json with the results
of the trainings so far; and evaluation.json, evaluation.md and evaluation.png.
"""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

from jobs import exit_codes
from jobs.augmentation.arms import SPLIT, Accuracies, Arm, make_arms, train_arms
from jobs.augmentation.figures import interval, summarise, table
from jobs.augmentation.plot import plot_arms
from jobs.augmentation.settings import Augmentation
from jobs.augmentation.training_set import share_confirmed
from jobs.augmentation.world import BiasedWorld
from jobs.edit.devices import device_of
from pipeline.config.config import Config
from pipeline.config.load import (
    ConfigError,
    apply_override,
    load_tree,
    parse_config,
    parse_settings,
)
from pipeline.config.mix import Mix
from pipeline.evaluation.tasks import write_shards
from pipeline.execution.local_loop import run_loop
from pipeline.mix.mix import run_mix
from pipeline.mix.plan import make_mix_plan
from pipeline.mix.survey import MixError
from pipeline.plan.plan import make_plan
from pipeline.storage.store import Store

SETTINGS = Path(__file__).with_name("settings.yaml")


def evaluate_augmentation(config: str | Path | None, overrides: list[str], home: Path) -> int:
    """Makes the sets, trains and tests the classifiers, writes and prints the results.

    Run again with the same settings, it resumes: it reuses finished edits and trainings.

    Args:
        config: a YAML file; None means settings.yaml beside this module.
        overrides: "key=value".
        home: the output folder.

    Returns:
        The exit code.

    Raises:
        ConfigError: the settings cannot run, or ``home`` has outputs of other settings.
    """
    settings = parse_settings(load_tree(config or SETTINGS, overrides), Augmentation)
    try:
        world = BiasedWorld(
            settings.world.partners, settings.world.correlation, settings.world.seed
        )
    except ValueError as error:
        raise ConfigError(f"world.partners: {error}") from error
    configs = {name: _config(settings, name, home) for name in settings.methods}
    tasks = list(world.tasks(settings.world.images, settings.world.edits))
    tars = [home / name for name in write_shards(tasks, Store(str(home)))]
    manifests = {name: _mixed(settings, world, home, name, configs[name]) for name in configs}
    mixed = {
        name: [home / "mixed" / name / tar for tar in manifest["splits"][SPLIT]["shards"]]
        for name, manifest in manifests.items()
    }
    arms = make_arms(settings, world, tars, mixed)
    accuracies = train_arms(settings, world, arms, home / "trainings.json")
    report = _report(settings, world, arms, accuracies, manifests)
    (home / "evaluation.json").write_text(json.dumps(report, indent=2) + "\n")
    text = _text(report)
    (home / "evaluation.md").write_text(text + "\n")
    title = f"in training, color goes with background in {settings.world.correlation:.0%}"
    plot_arms(report["arms"], title, home / "evaluation.png")
    print(f"{text}\n{home}/evaluation.json")
    return exit_codes.OK


def _config(settings: Augmentation, name: str, home: Path) -> Config:
    """The configuration of a method's run; PNG, so that training sees no compression."""
    tree = copy.deepcopy(settings.edit)
    places = [f"input.shards={home}/in/*.tar", f"output.path={home}/out/{name}"]
    for override in [*settings.methods[name], "output.format=png", *places]:
        apply_override(tree, override)
    return parse_config(tree)


def _mixed(
    settings: Augmentation, world: BiasedWorld, home: Path, name: str, config: Config
) -> dict[str, Any]:
    """Makes a method's edits and mixes them with the biased set.

    The class of an edit is the color that its text asks for.

    Returns:
        The manifest of the mix, and the model's revision.
    """
    plan = run_loop(make_plan(config, device_of(config)))
    tree = {
        "input": {"shards": config.input.shards},
        "edited": {"paths": [config.output.path]},
        "output": {"path": f"{home}/mixed/{name}"},
        "ratio": settings.ratio,
        "splits": {SPLIT: 1.0},
        "labels": {color: number for number, color in enumerate(world.classes)},
    }
    try:
        manifest = run_mix(make_mix_plan(Mix.model_validate(tree)))
    except MixError as error:
        raise ConfigError(str(error)) from error
    print(f"{name}: {manifest['splits'][SPLIT]['edited']} edits", flush=True)
    return manifest | {"model_revision": plan.model.revision}


def _report(
    settings: Augmentation,
    world: BiasedWorld,
    arms: dict[str, Arm],
    accuracies: dict[str, Accuracies],
    manifests: dict[str, Any],
) -> dict[str, Any]:
    """The contents of evaluation.json."""
    found = summarise({name: of_arm.every for name, of_arm in accuracies.items()})
    for name, arm in arms.items():
        found[name] |= {
            "pictures": len(arm.data.labels),
            "with_partner": float(arm.data.is_partner(world).mean()),
            "accuracy_without_partner": interval(accuracies[name].breaking),
        }
    return {
        "task": "the color of the only object; the background is the shortcut",
        "settings": settings.model_dump(mode="json"),
        "arms": found,
        "edits": {
            name: {
                "model_revision": manifest["model_revision"],
                "taken": manifest["splits"][SPLIT]["edited"],
                "left_out": manifest["edits"]["left_out"],
                "confirmed": share_confirmed(arms[name].data, world.classes),
            }
            for name, manifest in manifests.items()
        },
        "intervals": "95 %, Student's t over seeds (initial weights, batches); one draw of scenes",
    }


def _text(report: dict[str, Any]) -> str:
    lines = [table(report["arms"]), ""]
    for name, edits in report["edits"].items():
        left = ", ".join(f"{count} {reason}" for reason, count in edits["left_out"].items())
        lines.append(
            f"{name}: {edits['taken']} edits in the mix, left out: {left or 'none'}; of those in "
            f"the mix {edits['confirmed']:.0%} show the color that their text asks for."
        )
    lines.append(
        f"Intervals: {report['intervals']}. True edits are painted: the most that edits can do."
    )
    return "\n".join(lines)
