"""The fingerprint: a hash of everything that changes computed bytes. An output has only one."""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
from collections.abc import Mapping
from typing import Any

from pipeline.config.config import Config
from pipeline.config.input import Input
from pipeline.config.labels import Labels
from pipeline.plan.code import code_hash

# Libraries that compute or encode the output; another version may change the last bits.
LIBRARIES = ("torch", "diffusers", "transformers", "numpy", "pillow", "pyarrow", "webdataset")
NEW_INPUT_KEYS = ("boxes", "class_masks")


def fingerprint_inputs(
    config: Config,
    model_revision: str,
    device: str,
    score_revisions: Mapping[str, str] | None = None,
) -> dict[str, Any]:
    """What the fingerprint is a hash of, as a JSON-able mapping that is kept in ``_run/``.

    Settings that change no byte are left out: paths of input and output, number of actors, layout,
    filters, and everything of ``run`` except the seed and the part size. ``input.limit`` is left
    out too: it chooses edits, and a shard that it cut is computed anew under another limit.

    Args:
        config: the resolved configuration.
        model_revision: commit of a hub model, or sha256 of a local folder's files.
        device: "cpu" or "cuda"; threads matter only on a CPU.
        score_revisions: likewise of the networks of ``scores``, by scorer.
    """
    tree = config.model_dump(mode="json")
    stages = {
        name: {"micro_batch": stage["micro_batch"]}
        | ({"threads": config.threads} if device == "cpu" else {})
        for name, stage in tree["stages"].items()
        if name in config.stage_names
    }
    labels = {} if config.labels == Labels.model_validate({}) else {"labels": tree["labels"]}
    return {
        "input": without_new_defaults(
            _without(tree["input"], "shards", "limit", "storage_options")
        ),
        "output": _without(tree["output"], "path", "storage_options"),
        "model": _model(tree["model"]) | {"content": model_revision},
        "method": tree["method"],
        "stages": stages,
        "run": {"seed": tree["run"]["seed"], "part_size": tree["run"]["part_size"]},
        "scores": _scores(config, score_revisions or {}),
        "code": {"overpaint": code_hash()}
        | {name: importlib.metadata.version(name) for name in LIBRARIES},
        **labels,
    }


def fingerprint(inputs: dict[str, Any]) -> str:
    """sha256 of the canonical JSON of ``fingerprint_inputs``, 64 hexadecimal digits."""
    text = json.dumps(inputs, sort_keys=True, ensure_ascii=True, separators=(",", ":"))
    return hashlib.sha256(text.encode("ascii")).hexdigest()


def differences(saved: dict[str, Any], wanted: dict[str, Any], prefix: str = "") -> list[str]:
    """The keys in which two mappings of fingerprint inputs differ, one line each."""
    lines = []
    for name in sorted(saved.keys() | wanted.keys()):
        old, new = saved.get(name), wanted.get(name)
        if isinstance(old, dict) and isinstance(new, dict):
            lines += differences(old, new, f"{prefix}{name}.")
        elif old != new:
            lines.append(f"{prefix}{name}: the output has {old!r}, this run asks for {new!r}")
    return lines


def without_new_defaults(tree: dict[str, Any]) -> dict[str, Any]:
    """The section ``input`` without keys that came later, where they have their defaults.

    Outputs and mixes from before have none of them.
    """
    return {
        name: value
        for name, value in tree.items()
        if name not in NEW_INPUT_KEYS or value != Input.model_fields[name].default
    }


def _scores(config: Config, revisions: Mapping[str, str]) -> dict[str, Any]:
    """The scorers of a run; empty if it has none."""
    chosen = {
        name: weights.model_dump(mode="json", exclude={"path", "revision"})
        | {"content": revisions.get(name, "")}
        for name, weights in config.scores.chosen.items()
    }
    return {"dtype": config.scores.dtype, **chosen} if chosen else {}


def _model(section: dict[str, Any]) -> dict[str, Any]:
    """The model's settings. Outputs from before there were ``buckets`` are square."""
    absent = ["buckets"] if section["buckets"] == "square" else []
    return _without(section, "path", "revision", "device", "compile_cache", *absent)


def _without(section: dict[str, Any], *names: str) -> dict[str, Any]:
    return {name: value for name, value in section.items() if name not in names}
