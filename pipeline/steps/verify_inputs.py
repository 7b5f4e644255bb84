"""A part of the audit: whether the inputs are still those that were edited."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from pipeline.records.run_files import RunFileError
from pipeline.steps.marker import read_marker
from pipeline.storage.saved_inputs import saved_inputs
from pipeline.storage.store import Store


def changed_inputs(
    store: Store, shards: Sequence[str], options: dict[str, Any] | None = None
) -> Iterator[tuple[str, bool]]:
    """Reads the input of each published shard and compares its sha256 with the marker's.

    Args:
        store: of the output.
        shards: the published ones.
        options: fsspec's for the inputs.

    Yields:
        A line, and whether it is a problem; an output of 0.1.0 cannot be compared, which is none.
    """
    try:
        listed = saved_inputs(store)
    except RunFileError:  # ``verify`` names it
        return
    for shard in shards:
        try:
            stats = read_marker(store, shard)
        except RunFileError:  # likewise
            continue
        if stats is None or shard not in listed:
            continue
        url = listed[shard].url
        if not stats.input_sha256:
            yield f"{shard}: the input is not checked: written by an older version", False
            continue
        try:
            digest = listed[shard].sha256(options)
        except OSError as error:
            yield f"{shard}: the input {url} cannot be read: {error}", True
        else:
            if digest != stats.input_sha256:
                yield f"{shard}: the input {url} is not the one that was edited", True
