"""The `_run/` folder of an output: resolved config, fingerprint, environment, summary."""

from __future__ import annotations

import importlib.metadata
import platform
from typing import Any

from pipeline import __version__
from pipeline.config.config import Config
from pipeline.config.load import parse_saved, saved_tree
from pipeline.config.yaml_text import yaml_text
from pipeline.plan.filters import FILTERS_FILE, FiltersInForce
from pipeline.plan.fingerprint import LIBRARIES
from pipeline.plan.inputs import inputs_json
from pipeline.plan.plan import HASHES_FILE, Plan
from pipeline.plan.resume import RUN_FILE
from pipeline.records.run_files import RunFileError, check_version, sealed_json, to_json
from pipeline.storage.credentials import redacted
from pipeline.storage.saved_inputs import INPUTS_FILE
from pipeline.storage.store import Store

CONFIG_FILE = "_run/config.yaml"
SUMMARY_FILE = "_run/summary.json"
VERSION = 1  # of the config; it says none
REMEDY = "restore it, or run overpaint edit on this output again, which writes it anew"


def write_run_folder(plan: Plan) -> None:
    """Records what makes this output; the first run's ``run.json`` is never replaced.

    ``storage_options`` are left out of the config, since they may hold credentials.
    """
    output = plan.output
    record = {
        "fingerprint": plan.fingerprint,
        "inputs": plan.fingerprint_inputs,
        "model": plan.config.model.path,
        "model_revision": plan.model.content,
    }
    output.put_if_absent(RUN_FILE, sealed_json(record))
    in_force = FiltersInForce(plan.config.filtering.texts)
    output.put_if_absent(FILTERS_FILE, in_force.to_json())
    output.put(INPUTS_FILE, inputs_json(plan))
    if plan.hashes.to_tree():
        output.put(HASHES_FILE, plan.hashes.to_json())
    write_config(plan)
    output.put("_run/environment.json", to_json(environment(plan)))


def write_config(plan: Plan) -> None:
    """Writes ``_run/config.yaml``, replacing that of an earlier run."""
    plan.output.put(CONFIG_FILE, resolved_yaml(plan.config).encode())


def read_config(output: Store) -> Config:
    """The configuration in ``_run/config.yaml``.

    Raises:
        FileNotFoundError: there is no such file.
        RunFileError: it cannot be used.
    """
    data, place = output.get(CONFIG_FILE), f"{output.url}/{CONFIG_FILE}"
    try:
        tree = saved_tree(data.decode())
        check_version(tree, place, VERSION)
        return parse_saved(tree)
    except RunFileError:
        raise
    except ValueError as error:
        reason = "is damaged: " + " | ".join(str(error).splitlines())
        raise RunFileError(place, reason, REMEDY) from None


def write_summary(output: Store, summary: dict[str, Any]) -> None:
    """Writes ``_run/summary.json``, replacing that of an earlier run."""
    output.put(SUMMARY_FILE, to_json(summary))


def resolved_yaml(config: Config) -> str:
    """The configuration with every default filled in, without ``storage_options``.

    Urls with a password are refused as places of shards; in any other key it is left out here.
    """
    tree = config.model_dump(mode="json")
    for section in ("input", "output"):
        tree[section].pop("storage_options")
    return redacted(yaml_text(tree))


def environment(plan: Plan) -> dict[str, Any]:
    """Versions, machine and model, to tell later how the output was made."""
    return {
        "overpaint": __version__,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "device": plan.device,
        "model": {
            "path": plan.config.model.path,
            "revision": plan.model.content,
            "family": plan.model.family,
            "prediction_type": plan.model.prediction_type,
        },
        "libraries": {name: importlib.metadata.version(name) for name in LIBRARIES},
    }
