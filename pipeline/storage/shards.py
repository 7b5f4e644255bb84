"""The input shards of a run: listed once, sorted by name, with their sizes and etags."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import braceexpand  # webdataset expands its patterns with the same library

from pipeline.process.outage import store_of
from pipeline.storage.content import Content, sha256_of
from pipeline.storage.formats import BadShardError, ending, unpacked
from pipeline.storage.local_folder import Stat
from pipeline.storage.matches import ALLOWED, match
from pipeline.storage.no_shards import why_no_shards
from pipeline.storage.retry import with_retries
from pipeline.storage.shard_names import check_names, shard_name
from pipeline.storage.store import Store
from pipeline.storage.urls import (
    MAGIC,
    absolute,
    check_url,
    common_folder,
    resolved,
    split_url,
    static_root,
)

SET_HINT = " ([ begins a set of characters; [[] is the character itself)"
MAX_SHARD_BYTES = 16 << 30  # a task copies and reads all of a shard before its first part


@dataclass(frozen=True, slots=True)  # a run may hold a million of them
class InputShard:
    """One input tar as it was listed at the start of the run."""

    url: str
    name: str  # below the common prefix, without .tar or .tar.gz: names the output
    size: int  # bytes
    etag: str | None = None  # of a local file: its modification time

    def read(
        self, storage_options: dict[str, Any] | None = None, *, as_listed: bool = True
    ) -> bytes:
        """The whole tar in memory, unpacked if it is compressed; see ``open``."""
        return self.open(storage_options, as_listed=as_listed)[0][:]

    def sha256(self, storage_options: dict[str, Any] | None = None) -> str:
        """Of the object as it is stored now, changed or not."""
        folder, name = split_url(self.url)
        return sha256_of(Store(folder, storage_options).open(name))

    def open(
        self, storage_options: dict[str, Any] | None = None, *, as_listed: bool = True
    ) -> tuple[Content, str]:
        """The whole tar, unpacked if it is compressed, and the sha256 of the stored object.

        A large one takes no memory: it is read from its file, or from a copy on scratch disk.

        Args:
            storage_options: for fsspec.
            as_listed: refuse a tar that has changed since it was listed.

        Raises:
            ChangedError: the tar has changed, and ``as_listed`` is set.
            BadShardError: it is too large, or it is compressed and cannot be unpacked.
        """
        if self.size > MAX_SHARD_BYTES:
            raise BadShardError(
                f"{self.url}: {self.size} bytes; at most {MAX_SHARD_BYTES} are read, since a shard "
                "is read whole: split it"
            )
        folder, name = split_url(self.url)
        listed = Stat(self.size, self.etag) if as_listed else None
        data = Store(folder, storage_options).open(name, listed=listed)
        return unpacked(self.url, data), sha256_of(data)


@dataclass
class Listing:
    """The shards of a run, and a line for what was left out beside them."""

    shards: list[InputShard]
    left_out: list[str]


def expand_shards(
    shards: str | list[str], storage_options: dict[str, Any] | None = None
) -> list[InputShard]:
    """The shards of ``list_shards``."""
    return list_shards(shards, storage_options).shards


def list_shards(shards: str | list[str], storage_options: dict[str, Any] | None = None) -> Listing:
    """The tars that ``input.shards`` names, sorted by name whatever the order of the entries.

    A shard's name is its path below the folder that all entries share, without ``.tar``. That
    folder is taken from the entries as written (from a pattern: what precedes its first ``*?[{``),
    so that names do not change when more shards match a pattern. A folder stands for all tars below
    it, except those in subfolders whose names begin with "_" or ".".

    Raises:
        ValueError: nothing matches; an entry is not a tar; two names clash; a name is reserved; a
            url is refused (see ``check_url``).
    """
    entries = [shards] if isinstance(shards, str) else list(shards)
    roots: list[str] = []
    found: dict[str, Stat] = {}
    left_out: list[str] = []
    for entry in entries:
        check_url(entry)
        for pattern in _braces(entry):
            matches = with_retries(
                partial(match, pattern, storage_options),
                what=f"list input {pattern}",
                first=True,
                store=store_of(pattern),
            )
            left_out += matches.left_out(pattern)
            if not matches.shards:
                hint = SET_HINT if "[" in pattern else ""
                folder = static_root(pattern, is_folder=True, is_literal=matches.is_folder)
                raise ValueError(
                    f"input.shards: nothing matches {pattern!r}{hint}: "
                    f"{why_no_shards(folder, storage_options)}; allowed is {ALLOWED}"
                )
            found |= matches.shards
            is_literal = matches.is_folder and entry == pattern
            roots.append(static_root(entry, is_folder=matches.is_folder, is_literal=is_literal))
    if not found:
        raise ValueError(f"input.shards: {shards!r} names no shards; allowed is {ALLOWED}")
    prefix = common_folder(roots)
    named = [
        InputShard(url, shard_name(url, prefix), stat.size, stat.etag)
        for url, stat in found.items()
    ]
    named.sort(key=lambda shard: shard.name.encode("utf-8", "surrogateescape"))
    check_names([(shard.url, shard.name) for shard in named])
    return Listing(named, left_out)


def check_output(
    output_url: str, inputs: list[InputShard], shards: str | list[str] | None = None
) -> None:
    """Refuses an output that contains an input shard, or that the next run would read as input.

    Args:
        output_url: ``output.path``.
        inputs: from ``expand_shards``.
        shards: ``input.shards`` as written, for the second check.

    Raises:
        ValueError: names the output and the input that overlap.
    """
    check_url(output_url)
    output = absolute(output_url).rstrip("/") + "/"
    for shard in inputs:
        place = resolved(shard.url)
        if place.startswith(output) or place + "/" == output:
            raise ValueError(
                f"output.path: {output_url!r} contains the input shard {shard.url!r}; "
                f"choose another folder"
            )
    for entry in [shards] if isinstance(shards, str) else shards or []:
        root = static_root(entry, is_folder=not MAGIC.search(entry)).rstrip("/") + "/"
        recursive = "**" in entry or not (MAGIC.search(entry) or ending(entry))
        if recursive and output.startswith(root):
            raise ValueError(
                f"output.path: {output_url!r} lies below input.shards {entry!r}, so the next run "
                f"would read its own output; choose a folder outside of it"
            )


def _braces(entry: str) -> Iterator[str]:
    try:
        yield from braceexpand.braceexpand(entry, escape=False)
    except ValueError as error:
        raise ValueError(
            f"input.shards: {entry!r} has unbalanced braces; allowed is {ALLOWED}"
        ) from error
