"""What one pattern of ``input.shards`` stands for: its tars, and what was left out beside them."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass, field
from typing import Any

from fsspec.utils import glob_translate

from pipeline.records.printable import first_of
from pipeline.storage.bucket import etag_of
from pipeline.storage.filesystem import open_filesystem
from pipeline.storage.formats import COMPRESSIONS, ending
from pipeline.storage.local_folder import LocalFolder, Stat
from pipeline.storage.no_shards import is_image, pack_command
from pipeline.storage.store import open_backend
from pipeline.storage.urls import MAGIC, absolute, protocol_of, split_url

ALLOWED = (
    "a .tar (.tar.gz, .tgz, .tar.zst), a list of them, a glob ('in/*.tar'), "
    "a brace pattern ('in/{00..12}.tar') or a folder"
)


@dataclass
class Matches:
    """What one pattern stands for."""

    shards: dict[str, Stat] = field(default_factory=dict)  # by url
    others: list[str] = field(default_factory=list)  # names of files that are no shards
    links: list[str] = field(default_factory=list)  # folders that are links, and not followed
    is_folder: bool = False

    def left_out(self, pattern: str) -> list[str]:
        """A line each for files that are no shards, and for linked folders."""
        lines = []
        for things, what in (
            (self.others, "files were left out, since their names do not end in .tar"),
            (self.links, "folders were left out, since they are links; name them to read them"),
        ):
            if things:
                names = first_of([repr(name) for name in sorted(things)])
                lines.append(f"input.shards: {pattern!r}: {len(things)} {what} ({names})")
        return lines


def match(pattern: str, storage_options: dict[str, Any] | None) -> Matches:
    """The tars that one pattern (braces expanded) stands for.

    A file or folder of exactly this name comes first, also where the name has ``*?[`` in it.
    """
    url = absolute(pattern)
    folder, name = split_url(url)
    backend = open_backend(folder, storage_options or {})
    try:
        stat = backend.stat(name)
    except (FileNotFoundError, NotADirectoryError):
        is_folder = not MAGIC.search(url) or os.path.isdir(url)
        search = _below if is_folder else _globbed
        try:
            return search(url, storage_options)
        except FileNotFoundError:  # there is no such bucket
            return Matches()
    if ending(name) is None:
        to_do = f"images are packed with {pack_command(folder)}; " if is_image(name) else ""
        raise ValueError(
            f"input.shards: {pattern!r} does not end in {' or '.join(COMPRESSIONS)}; "
            f"{to_do}allowed is {ALLOWED}"
        )
    return Matches({url: stat})


def _globbed(url: str, storage_options: dict[str, Any] | None) -> Matches:
    folder, pattern = split_url(url)
    if not MAGIC.search(folder) and "**" not in pattern:
        return _globbed_names(folder, pattern, storage_options)
    protocol = protocol_of(url)
    found = open_filesystem(protocol, storage_options or {}).glob(url, detail=True)
    scheme = "" if protocol == "file" else f"{protocol}://"
    matches = Matches()
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


def _globbed_names(folder: str, pattern: str, storage_options: dict[str, Any] | None) -> Matches:
    """Matches of a pattern with wildcards in its last name only: one listing of one folder."""
    is_match = re.compile(glob_translate(pattern)).match
    start = MAGIC.split(pattern, maxsplit=1)[0]
    parent = folder.rstrip("/")
    matches = Matches()
    backend = open_backend(folder, storage_options or {})
    for name, stat in backend.each(start, recursive=False):
        if is_match(name):
            _add(matches, parent, name, stat)
    linked = backend.linked_folders if isinstance(backend, LocalFolder) else []
    matches.links += [f"{parent}/{name}" for name in linked if is_match(name)]
    return matches


def _below(url: str, storage_options: dict[str, Any] | None) -> Matches:
    """All tars below a folder."""
    matches = Matches(is_folder=True)
    backend = open_backend(url, storage_options or {})
    for name, stat in backend.each(""):
        if not any(part.startswith(("_", ".")) for part in name.split("/")):
            _add(matches, url, name, stat)
    if isinstance(backend, LocalFolder):
        matches.links += [f"{url}/{name}" for name in backend.linked_folders]
    return matches


def _add(matches: Matches, folder: str, name: str, stat: Stat) -> None:
    if ending(name) is None:
        matches.others.append(name)
    else:
        matches.shards[f"{folder}/{name}"] = stat
