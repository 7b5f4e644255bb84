"""Reads a YAML file and ``key=value`` overrides into a ``Config``; explains what is wrong."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, TypeVar, get_args

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from pipeline.config.config import Config
from pipeline.config.spelling import did_you_mean, nearest
from pipeline.config.yaml_text import parse_saved_yaml, parse_yaml

BUNDLED_FOLDERS = (
    Path(__file__).resolve().parents[1] / "configs",  # an installed wheel
    Path(__file__).resolve().parents[2] / "configs",  # a checkout
)

Settings = TypeVar("Settings", bound=BaseModel)
SECRET_SECTION = "storage_options"  # its values appear in no message


class ConfigError(ValueError):
    """A configuration that cannot run; the message names the key, the value and what is allowed."""


def load_config(path: str | Path, overrides: list[str] | None = None) -> Config:
    """Reads a configuration.

    Args:
        path: a YAML file, or the name of a bundled configuration ("demo", "configs/demo.yaml").
        overrides: "key=value" with a dotted key and a YAML value, e.g. "run.seed=7".

    Raises:
        ConfigError: the file is missing or not YAML, a key is unknown, or a value is not allowed.
    """
    return parse_config(load_tree(path, overrides))


def load_tree(path: str | Path, overrides: list[str] | None = None) -> dict[str, Any]:
    """Reads a configuration as a nested mapping, without checking keys and values.

    Raises:
        ConfigError: the file is missing or not YAML, or an override is not ``key=value``.
    """
    found = find_config(path)
    try:
        tree = parse_yaml(found.read_text(encoding="utf-8")) or {}
    except ValueError as error:
        raise ConfigError(f"{found}: {error}") from None
    if not isinstance(tree, dict):
        raise ConfigError(f"{found}: a configuration is a mapping, not {type(tree).__name__}")
    for override in overrides or []:
        apply_override(tree, override)
    return tree


def parse_config(tree: dict[str, Any]) -> Config:
    """Checks a nested mapping against the typed model. Reports all errors at once."""
    return parse_settings(tree, Config)


def saved_tree(text: str) -> dict[str, Any]:
    """The mapping in a configuration that a run has saved.

    Raises:
        ValueError: it is not YAML, no mapping, nested too deep, or has aliases.
    """
    tree = parse_saved_yaml(text)
    if not isinstance(tree, dict):
        raise ValueError(f"a configuration is a mapping, not {type(tree).__name__}")
    return tree


def parse_saved(tree: dict[str, Any]) -> Config:
    """The configuration in a mapping of ``saved_tree``, without keys that this version lacks.

    Raises:
        ConfigError: a key is missing, or has a value that is not allowed.
    """
    try:
        Config.model_validate(tree)
    except ValidationError as error:
        for item in error.errors():
            if item["type"] == "extra_forbidden":
                _drop(tree, item["loc"])
    return parse_config(tree)


def _drop(tree: Any, location: tuple[int | str, ...]) -> None:
    """Removes the key at a place of a nested mapping, if there is one."""
    for part in location[:-1]:
        tree = tree.get(part) if isinstance(tree, dict) else None
    if isinstance(tree, dict):
        tree.pop(location[-1], None)


def parse_settings(tree: dict[str, Any], model: type[Settings]) -> Settings:
    """Checks a nested mapping against the model of any command's settings."""
    try:
        return model.model_validate(tree)
    except ValidationError as error:
        lines = [_explain(item, model) for item in error.errors()]
        raise ConfigError("\n".join(lines)) from None


def find_config(path: str | Path) -> Path:
    """The file itself, or the bundled configuration of that name.

    The bundled folder also holds a README and the JSON schema, so only ``.yaml`` is looked for.
    """
    wanted = Path(path)
    if wanted.is_file():
        return wanted
    for folder in BUNDLED_FOLDERS:
        bundled = folder / f"{wanted.name.removesuffix('.yaml')}.yaml"
        if bundled.is_file() and wanted.parent.name in ("", "configs"):
            return bundled
    bundled_names = sorted(
        {file.name for folder in BUNDLED_FOLDERS for file in folder.glob("*.yaml")}
    )
    hint = did_you_mean(str(path), [name.removesuffix(".yaml") for name in bundled_names])
    raise ConfigError(
        f"no configuration at '{path}'; bundled: {', '.join(bundled_names) or 'none'}{hint}"
    )


def apply_override(tree: dict[str, Any], override: str) -> None:
    """Sets one dotted key of a nested mapping in place.

    Raises:
        ConfigError: there is no '=', or a part of the key is a value and not a section.
    """
    key, equals, text = override.partition("=")
    if not equals or not key:
        raise ConfigError(f"'{override}' is not an override; write key=value, e.g. run.seed=7")
    *sections, last = key.split(".")
    for name in sections:
        tree = tree.setdefault(name, {})
        if not isinstance(tree, dict):
            raise ConfigError(f"{key}: '{name}' is a value and has no keys of its own")
    try:
        tree[last] = parse_yaml(text) if text else ""
    except ValueError:  # e.g. a glob that begins with '*', which YAML reads as an alias
        tree[last] = text


def _explain(item: ErrorDetails, model: type[BaseModel]) -> str:
    """One line for one of pydantic's errors: the key, its value, what is allowed."""
    location = [part for part in item["loc"] if isinstance(part, str | int)]
    key = ".".join(str(part) for part in location) or "configuration"
    if item["type"] == "extra_forbidden":
        allowed = _keys_at(location[:-1], model)
        meant = nearest(str(location[-1]), allowed)
        hint = f"did you mean '{meant}'?" if meant else f"allowed: {', '.join(allowed)}"
        return f"{key}: unknown key; {hint}"
    if item["type"] == "missing":
        return f"{key}: must be given"
    message = item["msg"].removeprefix("Value error, ")
    if not location:
        return message  # the value is the whole configuration, and would print secrets
    value = "..." if SECRET_SECTION in location else repr(item["input"])
    return f"{key}={value}: {message[0].lower()}{message[1:]}{_choice_hint(item)}"


def _choice_hint(item: ErrorDetails) -> str:
    """The choice that was probably meant, where pydantic reports a value that is none of them."""
    if item["type"] != "literal_error":
        return ""
    choices, given = re.findall(r"'([^']*)'", item["ctx"]["expected"]), item["input"]
    return did_you_mean(given, choices)


def _keys_at(location: list[Any], model: Any) -> list[str]:
    """The keys of the section at this place in the configuration."""
    for name in location:
        annotation = model.model_fields[name].annotation
        options = [annotation, *get_args(annotation)]
        model = next(
            item for item in options if isinstance(item, type) and issubclass(item, BaseModel)
        )
    return sorted(model.model_fields)
