"""Whether a run may resume an output: what made it is on record, and must not have changed."""

from __future__ import annotations

import re
from typing import Any

from pipeline.config.config import Config
from pipeline.config.load import ConfigError
from pipeline.plan.fingerprint import differences, fingerprint
from pipeline.records.run_files import OF_RUN, RunFileError, RunRecord, parse_run
from pipeline.storage.store import Store

RUN_FILE = "_run/run.json"
VERSION = re.compile(r"\d+\.\d+\.\d+.*")  # before the code had a hash, its version stood there


def saved_run(output: Store) -> RunRecord | None:
    """What made the output, as its first run recorded it; None: no run has.

    Raises:
        RunFileError: the record is damaged.
    """
    try:
        return parse_run(output.get(RUN_FILE), f"{output.url}/{RUN_FILE}")
    except FileNotFoundError:
        return None


def same_run(
    config: Config, saved: RunRecord | None, inputs: dict[str, Any], has_output: bool
) -> tuple[str, dict[str, Any]]:
    """The fingerprint of the output, and what it is a hash of: this run's, or those it resumes.

    Raises:
        ConfigError: the output holds what other settings, another model or other code computed.
    """
    path, digest = config.output.path, fingerprint(inputs)
    if saved is None and has_output:
        raise ConfigError(
            f"output.path={path!r}: holds shards but no {RUN_FILE}, so what made them is unknown; "
            "name another folder"
        )
    if saved is None or saved.fingerprint == digest:
        return digest, inputs
    old, new = saved.code, inputs["code"]["overpaint"]
    if old is None:
        reason = "is damaged: it does not say which code computed the output"
        raise RunFileError(f"{path}/{RUN_FILE}", reason, OF_RUN)
    if VERSION.fullmatch(old):
        raise ConfigError(
            f"output.path={path!r}: was written by version {old}, which this version reads but "
            "does not resume; name another output.path"
        )
    resumed = inputs | {"code": inputs["code"] | {"overpaint": old}}
    if fingerprint(resumed) != saved.fingerprint:
        lines = "\n  ".join(differences(saved.inputs, inputs))
        raise ConfigError(
            f"output.path={path!r}: holds another run's output, made with other settings. "
            f"Choose another output.path, or set these back:\n  {lines}"
        )
    if config.run.accept_code != new:
        raise ConfigError(
            f"output.path={path!r}: was computed by the code {old}; this is the code {new}, and "
            f"nothing else differs. If both compute the same bytes, run.accept_code={new} resumes; "
            "else name another output.path"
        )
    return saved.fingerprint, resumed
