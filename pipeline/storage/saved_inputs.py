"""Reads `_run/inputs.json`: which input shards an output is made of, as they were listed."""

from __future__ import annotations

import json
from typing import Any

from pipeline.records.run_files import RunFileError, check_version
from pipeline.storage.layout import RUN
from pipeline.storage.shards import InputShard
from pipeline.storage.store import Store

INPUTS_FILE = f"{RUN}inputs.json"
VERSION = 1
REMEDY = "remove it: the next run writes it anew, and cannot tell which inputs changed before"


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
    text = f"{name}{url}{etag}"
    if not text.isascii():
        text.encode("utf-8", "surrogateescape")  # half of a surrogate pair is no character
    return InputShard(url, name, size, etag)
