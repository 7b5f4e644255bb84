"""``overpaint evaluate augmentation``: does a training set with edits undo a planted bias?

Below the output folder: in/ the biased set, out/<method>/ its edits, mixed/<method>/ both, as
``overpaint edit`` and ``overpaint mix`` write them; trainings.json what was trained so far;
evaluation.json, evaluation.md and evaluation.png.
"""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

from jobs.augmentation.arms import SPLIT, Accuracies, Arm, make_arms, train_arms
from jobs.augmentation.figures import interval, summarise, table
from jobs.augmentation.plot import plot_arms
from jobs.augmentation.settings import Augmentation
from jobs.augmentation.training_set import share_confirmed
from jobs.augmentation.world import PlantedWorld
from jobs.edit.cluster import device_of
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
    """Makes the sets, trains and tests the classifiers, writes and prints what was found.

    Run again with the same settings it goes on: edits and trainings that are there are used.

    Raises:
        ConfigError: the settings cannot run, or ``home`` holds what others have made.
    """
    settings = parse_settings(load_tree(config or SETTINGS, overrides), Augmentation)
    of_world = settings.world
    try:
        world = PlantedWorld(of_world.partners, of_world.correlation, of_world.seed)
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
    return 0


def _config(settings: Augmentation, name: str, home: Path) -> Config:
    """The run that makes a method's edits. What is trained on is what the method made: PNG."""
    tree = copy.deepcopy(settings.edit)
    places = [f"input.shards={home}/in/*.tar", f"output.path={home}/out/{name}"]
    for override in [*settings.methods[name], "output.format=png", *places]:
        apply_override(tree, override)
    return parse_config(tree)


def _mixed(
    settings: Augmentation, world: PlantedWorld, home: Path, name: str, config: Config
) -> dict[str, Any]:
    """A method's edits, mixed with the biased set; an edit's class is what its text asks for.

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
    world: PlantedWorld,
    arms: dict[str, Arm],
    accuracies: dict[str, Accuracies],
    manifests: dict[str, Any],
) -> dict[str, Any]:
    """Everything, JSON-able."""
    found = summarise({name: each.every for name, each in accuracies.items()})
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
        "intervals": "95 %, Student's t over seeds (first weights and batches); one draw of scenes",
    }


def _text(report: dict[str, Any]) -> str:
    lines = [table(report["arms"]), ""]
    for name, edits in report["edits"].items():
        left = ", ".join(f"{count} {reason}" for reason, count in edits["left_out"].items())
        lines.append(
            f"{name}: {edits['taken']} edits, left out: {left or 'none'}; of those taken "
            f"{edits['confirmed']:.0%} show the color that was asked for."
        )
    lines.append(f"Intervals: {report['intervals']}. True edits are painted: a ceiling.")
    return "\n".join(lines)
