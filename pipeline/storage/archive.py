"""Reads tars; of a damaged one it reads every file that it can, and says what is lost.

``tar_walk`` finds the files.
"""

from __future__ import annotations

import posixpath
import re
import tarfile
from collections import Counter
from dataclasses import dataclass, field

from pipeline.records.printable import first_of
from pipeline.storage.content import Content, Span
from pipeline.storage.tar_walk import Damage, Entry, walk

# webdataset's own function for this would import torch into every reader: 2 s and 140 MB.
FIRST_DOT = re.compile(r"((?:.*/)?[^.]+)\.([^/]*)")
# Folders; and what GNU tar writes of a volume (--label) and of a folder (--incremental).
NO_FILES = (tarfile.DIRTYPE, b"V", b"D")


@dataclass(frozen=True, slots=True)
class Member:
    """A file of a tar; without data, it stands in the tar but cannot be read.

    The data is a range of the tar: its bytes are read when they are needed.
    """

    name: str
    data: Span | None
    lost: str = ""  # why it cannot be read: "is a symbolic link to 'x.png'"
    kind: str = ""  # of such files, in the plural: "symbolic links"


@dataclass
class TarContents:
    """What a tar holds.

    Attributes:
        members: all files, in their order, those that cannot be read too.
        damages: (position, damage): files may be lost in front of ``members[position]``.
        problem: None if every file was read and the archive is whole, else a sentence.
    """

    members: list[Member] = field(default_factory=list)
    damages: list[tuple[int, Damage]] = field(default_factory=list)
    problem: str | None = None


def read_tar(data: Content) -> TarContents:
    """All files of a tar, and what is wrong with it. Never raises because of the bytes.

    A hard link has the content of the file that it names, which precedes it in the tar.
    """
    contents = TarContents()
    files: dict[str, Span | None] = {}
    problems: list[str] = []
    for found in walk(data):
        if isinstance(found, Entry):
            if found.kind not in NO_FILES:
                contents.members.append(_member(data, found, files))
            continue
        reason = found.reason if isinstance(found, Damage) else "data after an end-of-archive block"
        problems.append(f"truncated: {reason} at byte {found.offset} of {len(data)}")
        if isinstance(found, Damage):
            contents.damages.append((len(contents.members), found))
    unread = _unread(contents.members)
    contents.problem = "; ".join([*problems[:1], *unread]) or None
    return contents


def find_members(data: Content) -> tuple[list[tuple[str, Span]], str | None]:
    """All files that can be read, as ranges of the tar.

    Args:
        data: the whole tar.

    Returns:
        (name, range) of each file in the archive's order, and the problem of ``TarContents``.
    """
    contents = read_tar(data)
    readable = [(item.name, item.data) for item in contents.members if item.data is not None]
    return readable, contents.problem


def find_samples(data: Content) -> dict[str, dict[str, Span]]:
    """The files of a published tar as ranges of it: by output key, then by suffix, in its order."""
    samples: dict[str, dict[str, Span]] = {}
    for name, content in find_members(data)[0]:
        key, _, suffix = name.partition(".")
        samples.setdefault(key, {})[suffix] = content
    return samples


def read_members(data: bytes) -> tuple[list[tuple[str, bytes]], str | None]:
    """``find_members``, with the files read: of a tar that may be held in memory."""
    members, problem = find_members(data)
    return [(name, bytes(content)) for name, content in members], problem


def split_at_first_dot(name: str) -> tuple[str | None, str | None]:
    """Key and suffix of a file's name; (None, None) without a dot. The rule is webdataset's."""
    match = FIRST_DOT.fullmatch(name)
    return (match[1], match[2]) if match else (None, None)


def _member(data: Content, entry: Entry, files: dict[str, Span | None]) -> Member:
    """The file of an entry. ``files`` holds what came before it, for hard links."""
    member = _read(data, entry, files)
    files[posixpath.normpath(entry.name)] = member.data
    return member


def _read(data: Content, entry: Entry, files: dict[str, Span | None]) -> Member:
    if entry.kind == tarfile.LNKTYPE:
        target = posixpath.normpath(entry.link)
        content = files.get(target)
        if content is None:
            why = "cannot be read either" if target in files else "does not precede it in the tar"
            reason = f"is a hard link to {entry.link!r}, which {why}"
            return Member(entry.name, None, reason, "hard links")
    elif entry.kind == tarfile.SYMTYPE:
        reason = f"is a symbolic link to {entry.link!r}"
        return Member(entry.name, None, reason, "symbolic links")
    elif entry.sparse:
        return Member(entry.name, None, "is sparse: written by tar --sparse", "sparse files")
    elif entry.kind not in (tarfile.REGTYPE, tarfile.AREGTYPE, tarfile.CONTTYPE):
        return Member(entry.name, None, "is no regular file", "devices or unknown types")
    elif entry.end > len(data):
        return Member(entry.name, None, "is cut: the shard ends inside of it", "cut files")
    else:
        content = Span(data, entry.start, entry.end)
    return Member(entry.name, content)


def _unread(members: list[Member]) -> list[str]:
    """A sentence on the files that cannot be read, if there are any."""
    lost = [item for item in members if item.data is None]
    if not lost:
        return []
    kinds = Counter(item.kind for item in lost)
    counts = ", ".join(f"{kind}: {count}" for kind, count in sorted(kinds.items()))
    names = first_of([repr(item.name) for item in lost])
    return [f"{len(lost)} of {len(members)} files cannot be read ({counts}): {names}"]
