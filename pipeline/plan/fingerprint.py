"""The fingerprint: a hash of everything that changes computed bytes. An output has only one."""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
from collections.abc import Mapping
from typing import Any

from pipeline.config.config import Config
from pipeline.config.labels import Labels
from pipeline.plan.code import code_hash

# Libraries that compute or encode the output; another version may change the last bits.
LIBRARIES = ("torch", "diffusers", "transformers", "numpy", "pillow", "pyarrow")
# Settings that are left out at this value, since outputs from before there were such have none.
IMPLIED: dict[str, Any] = {
    "model.buckets": "square",
    "model.tf32": False,
    "model.vae_micro_batch": None,
    "method.guidance_interval": None,
    "input.boxes": "boxes.json",
    "input.class_masks": ["seg.png"],
    "labels": Labels.model_validate({}).model_dump(mode="json"),
}

# Keys of ``model`` that say where it is and what runs it; its content has hashes of its own.
NOT_THE_MODEL = ("path", "revision", "device", "compile_cache", "vae", "vae_revision", "lora")


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
        model_revision: commit of a hub model, or sha256 of a local folder's files, and the hashes
            of LoRAs and another VAE.
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
    return {
        "input": _without(
            without_implied("input", tree["input"]), *("shards", "limit", "storage_options")
        ),
        "output": _without(tree["output"], "path", "storage_options"),
        "model": _without(without_implied("model", tree["model"]), *NOT_THE_MODEL)
        | {"content": model_revision},
        "method": without_implied("method", tree["method"]),
        "stages": stages,
        "run": {"seed": tree["run"]["seed"], "part_size": tree["run"]["part_size"]},
        "scores": _scores(config, score_revisions or {}),
        "code": {"overpaint": code_hash()}
        | {name: importlib.metadata.version(name) for name in _libraries(config)},
        **({} if tree["labels"] == IMPLIED["labels"] else {"labels": tree["labels"]}),
    }


def fingerprint(inputs: dict[str, Any]) -> str:
    """sha256 of the canonical JSON of ``fingerprint_inputs``, 64 hexadecimal digits."""
    text = json.dumps(inputs, sort_keys=True, ensure_ascii=True, separators=(",", ":"))
    return hashlib.sha256(text.encode("ascii")).hexdigest()


def differences(saved: dict[str, Any], wanted: dict[str, Any], prefix: str = "") -> list[str]:
    """The keys in which two mappings of fingerprint inputs differ, one line each."""
    lines = []
    for name in sorted(saved.keys() | wanted.keys()):
        implied = IMPLIED.get(f"{prefix}{name}")
        old, new = saved.get(name, implied), wanted.get(name, implied)
        if isinstance(old, dict) and isinstance(new, dict):
            lines += differences(old, new, f"{prefix}{name}.")
        elif old != new:
            lines.append(f"{prefix}{name}: the output has {old!r}, this run asks for {new!r}")
    return lines


def _libraries(config: Config) -> tuple[str, ...]:
    return (*LIBRARIES, "peft") if config.model.lora else LIBRARIES


def without_implied(name: str, section: dict[str, Any]) -> dict[str, Any]:
    """A section of the configuration without the settings of ``IMPLIED`` at these values."""
    return {
        key: value for key, value in section.items() if value != IMPLIED.get(f"{name}.{key}", ...)
    }


def _scores(config: Config, revisions: Mapping[str, str]) -> dict[str, Any]:
    """The scorers of a run; empty if it has none."""
    chosen = {
        name: weights.model_dump(mode="json", exclude={"path", "revision"})
        | {"content": revisions.get(name, "")}
        for name, weights in config.scores.chosen.items()
    }
    return {"dtype": config.scores.dtype, **chosen} if chosen else {}


def _without(section: dict[str, Any], *names: str) -> dict[str, Any]:
    return {name: value for name, value in section.items() if name not in names}
