"""`_run/inputs.json`: records the input shards of an output, to find those that change later."""

from __future__ import annotations

import io
import json
from typing import Any

from pipeline.plan.plan import Plan
from pipeline.process.gc_pause import gc_paused
from pipeline.records.run_files import RunFileError, check_version
from pipeline.storage.layout import output_state
from pipeline.storage.shards import InputShard
from pipeline.storage.store import Store

INPUTS_FILE = "_run/inputs.json"
MAX_LINES = 20
VERSION = 1
REMEDY = "remove it: the next run writes it anew, and cannot tell which inputs changed before"


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


def saved_inputs(output: Store) -> dict[str, InputShard]:
    """The entries of an output's ``_run/inputs.json`` by name; empty if there is no such file.

    Raises:
        RunFileError: the file cannot be used.
    """
    place = f"{output.url}/{INPUTS_FILE}"
    try:
        text = output.get(INPUTS_FILE).decode("utf-8", "surrogateescape")
    except FileNotFoundError:
        return {}
    try:
        entries = json.loads(text, object_hook=_shard_of)
    except (ValueError, RecursionError) as error:
        raise RunFileError(place, f"is damaged: {error}", REMEDY) from None
    if isinstance(entries, dict):
        check_version(entries, place, VERSION)
    if not isinstance(entries, list) or not all(isinstance(item, InputShard) for item in entries):
        raise RunFileError(place, "is damaged: it is no list of input shards", REMEDY)
    return {shard.name: shard for shard in entries}


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


def _shard_of(entry: dict[str, Any]) -> InputShard | dict[str, Any]:
    """An entry as it was written, unknown fields left out; a file of a later form stays as it is.

    Checked here and not by pydantic, which refuses the bytes of a name that is not UTF-8, and since
    a run may have a million entries.
    """
    url, name, size, etag = (entry.get(key) for key in ("url", "name", "size", "etag"))
    if "version" in entry and url is None:
        return entry
    if not (isinstance(url, str) and isinstance(name, str) and isinstance(etag, str | None)):
        raise ValueError("an entry has no url, name or etag")
    if type(size) is not int or not 0 <= size < 2**63:
        raise ValueError("an entry has no size")
    if not (name.isascii() and url.isascii()):
        (name + url).encode("utf-8", "surrogateescape")  # half of a pair is no character
    return InputShard(url, name, size, etag)


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
