"""The staged parts of a shard: which set of them is complete, and whether each part is whole."""

from __future__ import annotations

import logging
from collections import defaultdict

import pyarrow as pa

from pipeline.process.notice import notice
from pipeline.records.rows import completed
from pipeline.steps.write_part import DamagedPartError, from_ipc, header_of
from pipeline.storage.layout import PARTS, StagedPart, claim_name, parse_part
from pipeline.storage.store import Store

log = logging.getLogger(__name__)


def staged_parts(store: Store, shard: str) -> list[StagedPart]:
    """All staged parts of a shard, of every generation."""
    parsed = (parse_part(name) for name in store.list(f"{PARTS}{shard}/"))
    return [part for part in parsed if part is not None and part.shard == shard]


def claimed_parts(store: Store, shard: str) -> list[StagedPart] | None:
    """The parts, by index, that a shard is to be published from; None while no set is complete.

    An input may be replaced while its parts are staged, and two drivers may have listed different
    contents. Then more than one set may be complete. The first one that is claimed is published,
    by every task: so a tar and a Parquet file of two sets never meet.

    A claim holds until the shard is published. If the marker exists when this returns, what it
    returns is out of date.
    """
    complete = _complete(staged_parts(store, shard))
    if not complete:
        return None
    claim = claim_name(shard)
    for _ in range(2):
        wanted = min(complete)
        if store.put_if_absent(claim, wanted.encode()):
            return complete[wanted]
        try:
            claimed = store.get(claim).decode("utf-8", "replace")
        except FileNotFoundError:  # published and removed meanwhile
            return None
        if claimed in complete:
            return complete[claimed]
        store.delete(claim)  # damaged, or of a set that has lost a part
    return None


def read_staged(store: Store, part: StagedPart) -> pa.Table | None:
    """A staged part; None if it is damaged, and then it is deleted, so that it is computed again.

    Raises:
        FileNotFoundError: it is not there (any more).
    """
    try:
        table = from_ipc(store.get(part.name))
        header = header_of(table)
        found = StagedPart(header.shard, header.index, header.num_parts, header.generation)
        if found != part or header.num_rows != table.num_rows:
            raise DamagedPartError("its header is that of another part")
    except (ValueError, TypeError, KeyError) as error:  # pyarrow's errors are ValueErrors
        line = f"{part.name}: damaged: {error}; deleted, to be computed again"
        log.warning("%s", line)
        notice(line)
        store.delete(part.name)
        store.delete(claim_name(part.shard))
        return None
    return completed(table)


def delete_staged(store: Store, shard: str) -> None:
    """Deletes all staged parts of a published shard, and at last its claim."""
    for part in staged_parts(store, shard):
        store.delete(part.name)
    store.delete(claim_name(shard))


def _complete(parts: list[StagedPart]) -> dict[str, list[StagedPart]]:
    """The complete sets of parts, each by index, under the text of its claim."""
    groups: dict[str, list[StagedPart]] = defaultdict(list)
    for part in parts:
        groups[f"{part.generation} {part.num_parts}"].append(part)
    return {
        claim: sorted(group, key=lambda part: part.index)
        for claim, group in groups.items()
        if {part.index for part in group} == set(range(group[0].num_parts))
    }
