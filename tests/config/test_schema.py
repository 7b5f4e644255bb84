"""The JSON schema of a run's configuration: it agrees with the loader and the bundled files."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from pipeline.config.config import Config
from pipeline.config.load import ConfigError, apply_override, parse_config
from pipeline.config.reference import SCHEMA, schema_text
from pipeline.config.schema import schema_of

FIRST_LINE = "# yaml-language-server: $schema=schema.json"
ROOT = Path(__file__).resolve().parents[2]
RUNS = sorted(ROOT.glob("configs/*.yaml"))
OTHER_COMMANDS = ("jobs/augmentation/settings.yaml", "jobs/train_demo/settings.yaml")


@pytest.fixture(scope="module")
def validator() -> jsonschema.Draft202012Validator:
    schema = schema_of(Config)
    jsonschema.Draft202012Validator.check_schema(schema)
    return jsonschema.Draft202012Validator(schema)


def tree_of(*overrides: str) -> dict[str, Any]:
    """A small configuration with some keys set."""
    tree: dict[str, Any] = {"input": {"shards": "in/*.tar"}, "output": {"path": "out"}}
    for override in overrides:
        apply_override(tree, override)
    return tree


def test_committed_schema_is_the_generated_one() -> None:
    """After a change of a key, `make reference` has to be run."""
    assert SCHEMA.read_text(encoding="utf-8") == schema_text()


@pytest.mark.parametrize("path", RUNS, ids=lambda path: path.name)
def test_bundled_run_validates_and_names_the_schema(
    path: Path, validator: jsonschema.Draft202012Validator
) -> None:
    """An editor finds the schema from the first line, and marks nothing."""
    text = path.read_text(encoding="utf-8")
    assert text.splitlines()[0] == FIRST_LINE
    assert [error.message for error in validator.iter_errors(yaml.safe_load(text))] == []


@pytest.mark.parametrize("name", OTHER_COMMANDS)
def test_settings_of_other_commands_name_no_schema(name: str) -> None:
    """The schema is that of a run; an editor would mark all of their keys."""
    assert "yaml-language-server" not in (ROOT / name).read_text(encoding="utf-8")


@pytest.mark.parametrize(
    "overrides",
    [
        ["input.shards=[a.tar, b.tar]"],
        ["method.mask.noise_level=0.4"],
        ["method.mask.noise_level=[0.4, 0.6]"],
        ["filters=mask_area <= 0.5"],
        ["filters=[score_edit_rms>.1, ' mask_area < 5e-1 ']"],
        ["filters={preset: instruct_pix2pix}", "scores.clip.path=x"],
        ["filters=[preset: instruct_pix2pix, mask_area > 0]", "scores.clip.path=x"],
        ["stages.mask.actors=auto", "stages.mask.threads=2"],
        ["plan.calibrate=never"],
        ["plan.calibrate=8"],
        ["method.name=imagic", "method.imagic.rank=4"],
        ["method.imagic=null", "scores.dino=null", "model.size=null"],
        ["input.storage_options={anon: true, config_kwargs: {read_timeout: 60}}"],
        ["input.substitutions={dog: [cat, fox]}"],
        ["model.compile='off'"],
    ],
    ids=lambda overrides: overrides[0],
)
def test_schema_takes_what_the_loader_takes(
    overrides: list[str], validator: jsonschema.Draft202012Validator
) -> None:
    """Also in the forms that the loader turns into another one."""
    tree = tree_of(*overrides)
    assert [error.message for error in validator.iter_errors(tree)] == []
    parse_config(tree)


@pytest.mark.parametrize(
    "override",
    [
        "method.stepz=5",
        "methods.steps=5",
        "method.mask.treshold=0.5",
        "method.name=difedit",
        "run.layout=pool",
        "method.steps=0",
        "method.encode_ratio=1.5",
        "method.mask.noise_level=[]",
        "method.mask.noise_level=0",
        "method.imagic.noise_range=[0.1]",
        "stages.mask.actors=0",
        "stages.mask.actors=many",
        "plan.calibrate=always",
        "filters=prettiness >= 1",
        "filters=mask_area == 1",
        "filters={preset: best}",
        "scores.clip={}",
        "model.compile=false",
        "run.seed=9223372036854775808",
    ],
)
def test_schema_refuses_what_the_loader_refuses(
    override: str, validator: jsonschema.Draft202012Validator
) -> None:
    """A mistyped key, a mistyped choice, a value out of its range."""
    tree = tree_of(override)
    assert not validator.is_valid(tree)
    with pytest.raises(ConfigError):
        parse_config(tree)


def test_every_key_is_described() -> None:
    """An editor shows for each key what it means; for a section, what the section is."""
    schema = schema_of(Config)
    sections = {"run": schema, **schema["$defs"]}
    missing = [
        f"{name}.{key}"
        for name, section in sections.items()
        for key, node in section["properties"].items()
        if name != "Preset" and not any(_descriptions(schema, node))
    ]
    assert missing == []


def _descriptions(schema: dict[str, Any], node: dict[str, Any]) -> Iterator[str]:
    yield node.get("description", "")
    if "$ref" in node:
        yield schema["$defs"][node["$ref"].rpartition("/")[2]].get("description", "")
