"""The input shards of a run: listed once, sorted by name, with their sizes and etags."""

from __future__ import annotations

import os
import posixpath
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache, partial
from itertools import takewhile
from typing import Any

import braceexpand  # webdataset expands its patterns with the same library
from fsspec.utils import glob_translate

from pipeline.process.outage import store_of
from pipeline.storage.bucket import etag_of, open_filesystem
from pipeline.storage.local_folder import LocalFolder, Stat
from pipeline.storage.no_shards import why_no_shards
from pipeline.storage.retry import with_retries
from pipeline.storage.store import Store, check_url, local_path, open_backend

ALLOWED = (
    "a .tar, a list of them, a glob ('in/*.tar'), a brace pattern ('in/{00..12}.tar') or a folder"
)
MAGIC = re.compile(r"[*?\[]")
RESERVED = ("_run", "_parts", "_rejected")


@dataclass(frozen=True, slots=True)  # a run may hold a million of them
class InputShard:
    """One input tar as it was listed at the start of the run."""

    url: str
    name: str  # below the common prefix, without .tar: names the output
    size: int  # bytes
    etag: str | None = None  # of a local file: its modification time

    def read(
        self, storage_options: dict[str, Any] | None = None, *, as_listed: bool = True
    ) -> bytes:
        """The whole tar.

        Args:
            storage_options: for fsspec.
            as_listed: refuse a tar that has changed since it was listed.

        Raises:
            ChangedError: the tar has changed, and ``as_listed`` is set.
        """
        folder, name = _split(self.url)
        listed = Stat(self.size, self.etag) if as_listed else None
        return Store(folder, storage_options).get(name, listed=listed)


def expand_shards(
    shards: str | list[str], storage_options: dict[str, Any] | None = None
) -> list[InputShard]:
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
    for entry in entries:
        check_url(entry)
        for pattern in _braces(entry):
            matches = with_retries(
                partial(_matches, pattern, storage_options),
                what=f"list input {pattern}",
                first=True,
                store=store_of(pattern),
            )
            if not matches:
                why = why_no_shards(_static_root(pattern, is_folder=True), storage_options)
                raise ValueError(
                    f"input.shards: nothing matches {pattern!r}: {why}; allowed is {ALLOWED}"
                )
            found |= matches
            is_tar = _absolute(pattern) in matches
            roots.append(_static_root(entry, is_folder=not is_tar and not MAGIC.search(pattern)))
    if not found:
        raise ValueError(f"input.shards: {shards!r} names no shards; allowed is {ALLOWED}")
    prefix = _common_folder(roots)
    named = [
        InputShard(url, _name(url, prefix), stat.size, stat.etag) for url, stat in found.items()
    ]
    named.sort(key=lambda shard: shard.name.encode("utf-8", "surrogateescape"))
    _check_names(named)
    return named


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
    output = _absolute(output_url).rstrip("/") + "/"
    for shard in inputs:
        place = _resolved(shard.url)
        if place.startswith(output) or place + "/" == output:
            raise ValueError(
                f"output.path: {output_url!r} contains the input shard {shard.url!r}; "
                f"choose another folder"
            )
    for entry in [shards] if isinstance(shards, str) else shards or []:
        root = _static_root(entry, is_folder=not MAGIC.search(entry)).rstrip("/") + "/"
        recursive = "**" in entry or not (MAGIC.search(entry) or entry.endswith(".tar"))
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


def _absolute(url: str) -> str:
    """The one spelling of an object's url: a resolved path, or a url without a trailing slash."""
    protocol = url.split("://", 1)[0] if "://" in url else "file"
    if protocol in ("file", "local"):
        return os.path.realpath(local_path(url))
    return protocol + "://" + posixpath.normpath(url.split("://", 1)[1]).lstrip("/")


def _resolved(url: str) -> str:
    """``_absolute`` of a shard's url, fast: a million take a few seconds."""
    if "://" in url or os.path.islink(url):
        return _absolute(url)
    folder, name = os.path.split(url)
    return os.path.join(_real_folder(folder), name)


@lru_cache(maxsize=1024)
def _real_folder(folder: str) -> str:
    return os.path.realpath(folder)


def _matches(pattern: str, storage_options: dict[str, Any] | None) -> dict[str, Stat]:
    """Url -> stat of the tars that one pattern (braces expanded) stands for."""
    url = _absolute(pattern)
    folder, name = _split(url)
    backend = open_backend(folder, storage_options or {})
    try:
        stat = backend.stat(name)
    except (FileNotFoundError, NotADirectoryError):
        search = _globbed if MAGIC.search(url) else _below
        try:
            return search(url, storage_options)
        except FileNotFoundError:  # there is no such bucket
            return {}
    if not name.endswith(".tar"):
        raise ValueError(f"input.shards: {pattern!r} does not end in .tar; allowed is {ALLOWED}")
    return {url: stat}


def _globbed(url: str, storage_options: dict[str, Any] | None) -> dict[str, Stat]:
    folder, pattern = _split(url)
    if not MAGIC.search(folder) and "**" not in pattern:
        return _globbed_names(folder, pattern, storage_options)
    protocol = url.split("://", 1)[0] if "://" in url else "file"
    found = open_filesystem(protocol, storage_options or {}).glob(url, detail=True)
    scheme = "" if protocol == "file" else f"{protocol}://"
    matches = {}
    for path, info in found.items():
        if info.get("type") == "file" and path.endswith(".tar"):
            if scheme:
                matches[scheme + path.lstrip("/")] = Stat(int(info["size"]), etag_of(info))
            else:
                matches[path] = LocalFolder(os.path.dirname(path)).stat(os.path.basename(path))
    return matches


def _globbed_names(
    folder: str, pattern: str, storage_options: dict[str, Any] | None
) -> dict[str, Stat]:
    """Matches of a pattern with wildcards in its last name only: one listing of one folder."""
    matches = re.compile(glob_translate(pattern)).match
    start = MAGIC.split(pattern, maxsplit=1)[0]
    parent = folder.rstrip("/")
    return {
        f"{parent}/{name}": stat
        for name, stat in open_backend(folder, storage_options or {}).each(start, recursive=False)
        if name.endswith(".tar") and matches(name)
    }


def _below(url: str, storage_options: dict[str, Any] | None) -> dict[str, Stat]:
    """All tars below a folder."""
    return {
        f"{url}/{name}": stat
        for name, stat in open_backend(url, storage_options or {}).each("")
        if name.endswith(".tar") and not any(part[0] in "_." for part in name.split("/"))
    }


def _static_root(entry: str, *, is_folder: bool) -> str:
    """The folder that an entry names before its first pattern character."""
    first = re.search(r"[*?\[{]", entry)
    if first is None:
        path = _absolute(entry)
        return path if is_folder else _split(path)[0]
    static = entry[: first.start()]
    if static.endswith("://"):  # a pattern in place of the bucket
        return static
    if "/" not in static:
        return _absolute(".")
    return _absolute(_split(static)[0])


def _split(url: str) -> tuple[str, str]:
    """(folder, name). The folder of ``/x`` is ``/``; that of ``memory://x`` is ``memory://``."""
    folder, _, name = url.rpartition("/")
    if folder.endswith(":/"):
        folder += "/"
    return folder or "/", name


def _common_folder(roots: list[str]) -> str:
    common = roots[0].rstrip("/").split("/")
    for root in roots[1:]:
        pairs = zip(common, root.rstrip("/").split("/"), strict=False)
        common = [part for part, _ in takewhile(lambda pair: pair[0] == pair[1], pairs)]
    return "/".join(common) + "/"


def _name(url: str, prefix: str) -> str:
    name = url[len(prefix) :] if url.startswith(prefix) else url.split("://", 1)[-1]
    return name.lstrip("/").removesuffix(".tar")


def _check_names(shards: list[InputShard]) -> None:
    for shard, following in zip(shards, [*shards[1:], None], strict=True):
        if following is not None and shard.name == following.name:
            raise ValueError(
                f"input.shards: {shard.url!r} and {following.url!r} would both be written as "
                f"{shard.name!r}; rename one, or write them to two outputs"
            )
        parts = shard.name.split("/")
        if parts[0] in RESERVED or any(part in ("", ".", "..") for part in parts):
            raise ValueError(
                f"input.shards: {shard.url!r} would be written as {shard.name!r}; rename it: "
                f"{', '.join(RESERVED)} are reserved for the output itself, and no part of a name "
                "may be empty, '.' or '..'"
            )
