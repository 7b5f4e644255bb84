"""`_run/inputs.json`: the input shards of an output as they were read, and which have changed."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Any

from pipeline.plan.plan import Plan
from pipeline.storage.layout import output_state
from pipeline.storage.shards import InputShard, expand_shards
from pipeline.storage.store import Store

INPUTS_FILE = "_run/inputs.json"
MAX_LINES = 20


def frozen_inputs(plan: Plan) -> dict[str, InputShard]:
    """This run's shards by name: as the plan froze them, and published ones as they are now."""
    config = plan.config.input
    frozen = {work.shard.name: work.shard for work in plan.work}
    listed = {shard.name: shard for shard in expand_shards(config.shards, config.storage_options)}
    every = listed | frozen
    names = {*plan.published, *frozen}
    return {name: every[name] for name in sorted(names & every.keys())}


def inputs_record(plan: Plan) -> list[dict[str, Any]]:
    """What ``_run/inputs.json`` shall say: name, url, size and etag of each shard, by name.

    An entry stays as it is where the output holds anything of its shard, since that was computed
    from the object that the entry describes. All others are replaced, so that shards may be added.
    """
    state = output_state(plan.output)
    record = {name: asdict(shard) for name, shard in frozen_inputs(plan).items()}
    record |= {name: entry for name, entry in saved_inputs(plan.output).items() if name in state}
    return [record[name] for name in sorted(record)]


def saved_inputs(output: Store) -> dict[str, dict[str, Any]]:
    """The entries of an output's ``_run/inputs.json`` by name; none where it has no such file."""
    try:
        entries = json.loads(output.get(INPUTS_FILE))
    except FileNotFoundError:
        return {}
    return {entry["name"]: entry for entry in entries}


def changed_inputs(plan: Plan) -> list[str]:
    """A warning line for each input shard that is not the one its output was computed from.

    Compared are size and etag (the modification time of a local file) with ``_run/inputs.json``,
    for shards that are published or partly staged; both stay as they are.
    """
    saved = saved_inputs(plan.output)
    staged = {work.shard.name for work in plan.work if work.staged}
    lines = []
    for name, shard in frozen_inputs(plan).items():
        entry = saved.get(name)
        if entry is None or not (name in plan.published or name in staged):
            continue
        if (shard.size, shard.etag) != (entry["size"], entry["etag"]):
            lines.append(_warning(shard, entry, is_staged=name in staged))
    more = len(lines) - MAX_LINES
    return lines if more <= 0 else [*lines[:MAX_LINES], f"{more} more input shards have changed"]


def _warning(shard: InputShard, entry: dict[str, Any], *, is_staged: bool) -> str:
    size = f"{entry['size']} bytes then, {shard.size} now"
    if shard.size == entry["size"]:
        size = f"{shard.size} bytes, but written anew"
    remedy = (
        f"its staged parts are of the old one; to compute it anew remove _parts/{shard.name}/"
        if is_staged
        else f"its output stays as it is; to compute it anew remove {shard.name}_stats.json"
    )
    return f"shard {shard.name}: the input has changed since it was read ({size}); {remedy}"
