"""The input shards of a run: listed once, sorted by name, with their sizes and etags."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import lru_cache, partial
from itertools import takewhile
from typing import Any

import braceexpand  # webdataset expands its patterns with the same library
from fsspec.utils import glob_translate

from pipeline.process.outage import store_of
from pipeline.records.printable import UNPRINTABLE
from pipeline.storage.bucket import etag_of, open_filesystem
from pipeline.storage.formats import COMPRESSIONS, BadShardError, ending, unpacked
from pipeline.storage.local_folder import LocalFolder, Stat
from pipeline.storage.no_shards import is_image, pack_command, why_no_shards
from pipeline.storage.retry import with_retries
from pipeline.storage.store import Store, check_url, local_path, open_backend

ALLOWED = (
    "a .tar (.tar.gz, .tgz, .tar.zst), a list of them, a glob ('in/*.tar'), "
    "a brace pattern ('in/{00..12}.tar') or a folder"
)
MAGIC = re.compile(r"[*?\[]")
RESERVED = ("_run", "_parts", "_rejected")
MAX_SHARD_BYTES = 16 << 30  # a shard is held in memory
MAX_NAMES = 3  # of what was left out, in a line
# A folder in a shard's name that is called like a file of the output of another shard, or of a mix
OUTPUT_FOLDER = re.compile(
    r"(?:\.tar|\.parquet|_stats\.json|\.json|/\d{5,}-of-\d{5,}(?:-[0-9a-f]{12})?\.arrow|/generation\.claim)(?=/)"
)


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
        """The whole tar, unpacked if it is compressed; see ``fetch``."""
        return self.fetch(storage_options, as_listed=as_listed)[0]

    def sha256(self, storage_options: dict[str, Any] | None = None) -> str:
        """Of the object as it is stored now, changed or not."""
        folder, name = _split(self.url)
        return hashlib.sha256(Store(folder, storage_options).get(name)).hexdigest()

    def fetch(
        self, storage_options: dict[str, Any] | None = None, *, as_listed: bool = True
    ) -> tuple[bytes, str]:
        """The whole tar, unpacked if it is compressed, and the sha256 of the stored object.

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
        folder, name = _split(self.url)
        listed = Stat(self.size, self.etag) if as_listed else None
        data = Store(folder, storage_options).get(name, listed=listed)
        return unpacked(self.url, data), hashlib.sha256(data).hexdigest()


@dataclass
class _Matches:
    """What one pattern stands for."""

    shards: dict[str, Stat] = field(default_factory=dict)  # by url
    others: list[str] = field(default_factory=list)  # names of files that are no shards
    links: list[str] = field(default_factory=list)  # folders that are links, and not followed
    is_folder: bool = False


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
        _check_parts(entry)
        for pattern in _braces(entry):
            matches = with_retries(
                partial(_matches, pattern, storage_options),
                what=f"list input {pattern}",
                first=True,
                store=store_of(pattern),
            )
            left_out += _left_out(pattern, matches)
            if not matches.shards:
                folder = _static_root(pattern, is_folder=True, is_literal=matches.is_folder)
                raise ValueError(
                    f"input.shards: nothing matches {pattern!r}{_hint(pattern)}: "
                    f"{why_no_shards(folder, storage_options)}; allowed is {ALLOWED}"
                )
            found |= matches.shards
            is_literal = matches.is_folder and entry == pattern
            roots.append(_static_root(entry, is_folder=matches.is_folder, is_literal=is_literal))
    if not found:
        raise ValueError(f"input.shards: {shards!r} names no shards; allowed is {ALLOWED}")
    prefix = _common_folder(roots)
    named = [
        InputShard(url, _name(url, prefix), stat.size, stat.etag) for url, stat in found.items()
    ]
    named.sort(key=lambda shard: shard.name.encode("utf-8", "surrogateescape"))
    _check_names(named)
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


def _absolute(url: str) -> str:
    """The one spelling of an object's url: a resolved path, or a url without a trailing slash."""
    protocol = url.split("://", 1)[0] if "://" in url else "file"
    if protocol in ("file", "local"):
        return os.path.realpath(local_path(url))
    return protocol + "://" + url.split("://", 1)[1].strip("/")


def _resolved(url: str) -> str:
    """``_absolute`` of a shard's url, fast: a million take a few seconds."""
    if "://" in url or os.path.islink(url):
        return _absolute(url)
    folder, name = os.path.split(url)
    return os.path.join(_real_folder(folder), name)


@lru_cache(maxsize=1024)
def _real_folder(folder: str) -> str:
    return os.path.realpath(folder)


def _matches(pattern: str, storage_options: dict[str, Any] | None) -> _Matches:
    """The tars that one pattern (braces expanded) stands for.

    A file or folder of exactly this name comes first, also where the name has ``*?[`` in it.
    """
    url = _absolute(pattern)
    folder, name = _split(url)
    backend = open_backend(folder, storage_options or {})
    try:
        stat = backend.stat(name)
    except (FileNotFoundError, NotADirectoryError):
        is_folder = not MAGIC.search(url) or os.path.isdir(url)
        search = _below if is_folder else _globbed
        try:
            return search(url, storage_options)
        except FileNotFoundError:  # there is no such bucket
            return _Matches()
    if ending(name) is None:
        to_do = f"images are packed with {pack_command(folder)}; " if is_image(name) else ""
        raise ValueError(
            f"input.shards: {pattern!r} does not end in {' or '.join(COMPRESSIONS)}; "
            f"{to_do}allowed is {ALLOWED}"
        )
    return _Matches({url: stat})


def _globbed(url: str, storage_options: dict[str, Any] | None) -> _Matches:
    folder, pattern = _split(url)
    if not MAGIC.search(folder) and "**" not in pattern:
        return _globbed_names(folder, pattern, storage_options)
    protocol = url.split("://", 1)[0] if "://" in url else "file"
    found = open_filesystem(protocol, storage_options or {}).glob(url, detail=True)
    scheme = "" if protocol == "file" else f"{protocol}://"
    matches = _Matches()
    for path, info in found.items():
        if info.get("type") != "file":
            continue
        if ending(path) is None:
            matches.others.append(path)
        elif scheme:
            stat = Stat(int(info["size"]), etag_of(info))
            matches.shards[scheme + path.lstrip("/")] = stat
        else:
            stat = LocalFolder(os.path.dirname(path)).stat(os.path.basename(path))
            matches.shards[path] = stat
    return matches


def _globbed_names(folder: str, pattern: str, storage_options: dict[str, Any] | None) -> _Matches:
    """Matches of a pattern with wildcards in its last name only: one listing of one folder."""
    is_match = re.compile(glob_translate(pattern)).match
    start = MAGIC.split(pattern, maxsplit=1)[0]
    parent = folder.rstrip("/")
    matches = _Matches()
    backend = open_backend(folder, storage_options or {})
    for name, stat in backend.each(start, recursive=False):
        if is_match(name):
            _add(matches, parent, name, stat)
    linked = backend.linked_folders if isinstance(backend, LocalFolder) else []
    matches.links += [f"{parent}/{name}" for name in linked if is_match(name)]
    return matches


def _below(url: str, storage_options: dict[str, Any] | None) -> _Matches:
    """All tars below a folder."""
    matches = _Matches(is_folder=True)
    backend = open_backend(url, storage_options or {})
    for name, stat in backend.each(""):
        if not any(part.startswith(("_", ".")) for part in name.split("/")):
            _add(matches, url, name, stat)
    if isinstance(backend, LocalFolder):
        matches.links += [f"{url}/{name}" for name in backend.linked_folders]
    return matches


def _add(matches: _Matches, folder: str, name: str, stat: Stat) -> None:
    if ending(name) is None:
        matches.others.append(name)
    else:
        matches.shards[f"{folder}/{name}"] = stat


def _left_out(pattern: str, matches: _Matches) -> list[str]:
    """A line each for files that are no shards, and for linked folders."""
    lines = []
    for things, what in (
        (matches.others, "files were left out, since their names do not end in .tar"),
        (matches.links, "folders were left out, since they are links; name them to read them"),
    ):
        if things:
            names = ", ".join(repr(name) for name in sorted(things)[:MAX_NAMES])
            more = ", ..." if len(things) > MAX_NAMES else ""
            lines.append(f"input.shards: {pattern!r}: {len(things)} {what} ({names}{more})")
    return lines


def _check_parts(entry: str) -> None:
    """Refuses a url whose parts a file system would read in another way than a bucket does."""
    if "://" not in entry or entry.split("://", 1)[0] in ("file", "local"):
        return
    parts = entry.removeprefix("memory:///").split("://", 1)[-1].rstrip("/").split("/")
    if any(part in ("", ".", "..") for part in parts):
        raise ValueError(
            f"input.shards: {entry!r}: no part of a url may be empty, '.' or '..': a bucket "
            "takes it as part of the name, and tools disagree on it; rename such objects"
        )


def _hint(pattern: str) -> str:
    return " ([ begins a set of characters; [[] is the character itself)" if "[" in pattern else ""


def _static_root(entry: str, *, is_folder: bool, is_literal: bool = False) -> str:
    """The folder that an entry names before its first pattern character."""
    first = None if is_literal else re.search(r"[*?\[{]", entry)
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
    name = url[len(prefix) :] if url.startswith(prefix) else url.split("://", 1)[-1].lstrip("/")
    return name.removesuffix(ending(name) or "")


def _check_names(shards: list[InputShard]) -> None:
    """Refuses names that cannot be written, or not beside each other, before anything is done."""
    every = {shard.name for shard in shards}
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
        if UNPRINTABLE.search(shard.name):
            raise ValueError(
                f"input.shards: {shard.url!r} has control characters in its name, or bytes that "
                "are not UTF-8; rename it"
            )
        for folder in OUTPUT_FOLDER.finditer(shard.name):
            other = shard.name[: folder.start()]
            if other in every:
                raise ValueError(
                    f"input.shards: {shard.url!r} would be written into the folder "
                    f"{shard.name[: folder.end()]!r}, but the shard {other!r} writes a file of "
                    "that name; rename one, or write them to two outputs"
                )
