"""`_run/inputs.json`: the input shards of an output as they were read, and which have changed."""

from __future__ import annotations

import io
import json

from pipeline.plan.plan import Plan
from pipeline.process.gc_pause import gc_paused
from pipeline.storage.layout import output_state
from pipeline.storage.shards import InputShard
from pipeline.storage.store import Store

INPUTS_FILE = "_run/inputs.json"
MAX_LINES = 20


@gc_paused()
def inputs_json(plan: Plan) -> bytes:
    """What ``_run/inputs.json`` shall say: name, url, size and etag of each shard, a line each.

    An entry stays as it is where the output holds anything of its shard, since that was computed
    from the object that the entry describes. All others are replaced, so that shards may be added.
    """
    record = dict(plan.inputs)
    saved = saved_inputs(plan.output)
    held = _held(plan)
    if not saved.keys() <= record.keys():  # shards of an earlier run, and of no later one
        held |= output_state(plan.output).keys()
    record |= {name: shard for name, shard in saved.items() if name in held}
    encode = json.JSONEncoder(ensure_ascii=False).encode
    text = io.BytesIO()
    for number, name in enumerate(sorted(record)):
        text.write(b",\n" if number else b"[\n")
        shard = record[name]
        entry = {"etag": shard.etag, "name": name, "size": shard.size, "url": shard.url}
        text.write(encode(entry).encode("utf-8", "surrogateescape"))
    text.write(b"\n]\n" if record else b"[]\n")
    return text.getvalue()


def saved_inputs(output: Store) -> dict[str, InputShard]:
    """The entries of an output's ``_run/inputs.json`` by name; none where it has no such file."""
    try:
        text = output.get(INPUTS_FILE).decode("utf-8", "surrogateescape")
    except FileNotFoundError:
        return {}
    return {shard.name: shard for shard in json.loads(text, object_hook=_shard_of)}


@gc_paused()
def changed_inputs(plan: Plan) -> list[str]:
    """A warning line for each input shard that is not the one its output was computed from.

    Compared are size and etag (the modification time of a local file) with ``_run/inputs.json``,
    for shards that are published or partly staged; both stay as they are.
    """
    saved = saved_inputs(plan.output)
    staged = {work.shard.name for work in plan.work if work.staged}
    lines = []
    for name in sorted(_held(plan) & saved.keys() & plan.inputs.keys()):
        shard, entry = plan.inputs[name], saved[name]
        if (shard.size, shard.etag) != (entry.size, entry.etag):
            lines.append(_warning(shard, entry, is_staged=name in staged))
    more = len(lines) - MAX_LINES
    return lines if more <= 0 else [*lines[:MAX_LINES], f"{more} more input shards have changed"]


def _held(plan: Plan) -> set[str]:
    """The shards of the run of which the output holds something."""
    return {*plan.published, *(work.shard.name for work in plan.work if work.staged)}


def _shard_of(entry: dict[str, str | int | None]) -> InputShard:
    return InputShard(**entry)  # type: ignore[arg-type]


def _warning(shard: InputShard, entry: InputShard, *, is_staged: bool) -> str:
    size = f"{entry.size} bytes then, {shard.size} now"
    if shard.size == entry.size:
        size = f"{shard.size} bytes, but written anew"
    remedy = (
        f"its staged parts are of the old one; to compute it anew remove _parts/{shard.name}/"
        if is_staged
        else f"its output stays as it is; to compute it anew remove {shard.name}_stats.json"
    )
    return f"shard {shard.name}: the input has changed since it was read ({size}); {remedy}"
