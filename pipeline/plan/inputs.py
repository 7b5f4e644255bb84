"""Writes `_run/inputs.json`, the input shards of an output, and finds those that have changed."""

from __future__ import annotations

import io
import json

from pipeline.plan.plan import Plan
from pipeline.process.gc_pause import gc_paused
from pipeline.storage.layout import output_state
from pipeline.storage.saved_inputs import saved_inputs
from pipeline.storage.shards import InputShard

MAX_LINES = 20


@gc_paused()
def inputs_json(plan: Plan) -> bytes:
    """The new ``_run/inputs.json``: name, url, size and etag of each shard, one line each.

    If the output holds anything of a shard, that was computed from the object in the shard's entry,
    so the entry stays as it is. All other entries are replaced, so that shards may be added.
    """
    record = dict(plan.inputs)
    saved = saved_inputs(plan.output)
    held = _held(plan)
    if not saved.keys() <= record.keys():  # an earlier run had shards that this one has not
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


@gc_paused()
def changed_inputs(plan: Plan) -> list[str]:
    """A warning line for each input shard that has changed since its output was computed.

    For published and partly staged shards, this compares size and etag (of a local file, its
    modification time) with ``_run/inputs.json``. It changes nothing.
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
    """The shards of the run that are published or partly staged."""
    return {*plan.published, *(work.shard.name for work in plan.work if work.staged)}


def _warning(shard: InputShard, entry: InputShard, *, is_staged: bool) -> str:
    size = f"{entry.size} bytes then, {shard.size} now"
    if shard.size == entry.size:
        size = f"still {shard.size} bytes, but rewritten"
    remedy = (
        f"its staged parts are from the old input; to recompute it, remove _parts/{shard.name}/"
        if is_staged
        else f"its output stays as it is; to recompute it, remove {shard.name}_stats.json"
    )
    return f"shard {shard.name}: the input has changed since it was read ({size}); {remedy}"
