"""sha256 of files, remembered by size and times, so that a restart does not read 100 GB again."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import stat
import tempfile
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from pipeline.models.small_files import read_small, write_small
from pipeline.process.heartbeat import heartbeat

CHUNK_BYTES = 8 << 20
# A file that changed this recently is hashed, but not remembered: a second change within the
# resolution of the file system's clock (2 s on FAT) would leave its times as they are.
SETTLED_S = 2.0
NODE_FILE, MOST_ENTRIES = "model_files.json", 10_000
SHA256 = re.compile(r"[0-9a-f]{64}")


class FileHashes:
    """Hashes of local files. A file is read again unless path, size, times and inode are the same.

    What it trusts: that nobody changes a file and sets back its times. The change time cannot be
    set by ordinary means.
    """

    def __init__(self, known: Mapping[str, Mapping[str, Any]] | None = None) -> None:
        """
        Args:
            known: what ``to_tree`` returned, earlier.
        """
        self._known = dict(known or {})
        self._used: dict[str, Mapping[str, Any]] = {}

    @classmethod
    def from_json(cls, *data: bytes) -> FileHashes:
        """From what ``to_json`` returned; damaged content counts as nothing known."""
        known: dict[str, Mapping[str, Any]] = {}
        for each in data:
            known |= _entries(each)
        return cls(known)

    def to_tree(self, *, forget: bool = True) -> dict[str, Mapping[str, Any]]:
        """What was asked for and may be remembered, by path.

        Args:
            forget: False keeps what was known of other files too, as long as they exist.
        """
        others = {} if forget else {n: e for n, e in self._known.items() if os.path.exists(n)}
        return dict(sorted((others | self._used).items()))

    def to_json(self, *, forget: bool = True) -> bytes:
        return (json.dumps(self.to_tree(forget=forget), indent=1) + "\n").encode()

    def sha256(self, path: Path) -> str:
        """The hash of one file: 64 hexadecimal digits."""
        name = os.path.abspath(path)
        before = _stamp(path)
        known = self._known.get(name)
        if known is not None and "sha256" in known and before.items() <= known.items():
            self._used[name] = known
            return str(known["sha256"])
        entry = before | {"sha256": _read(path)}
        changed_s = max(before["mtime_ns"], before["ctime_ns"]) / 1e9
        if before == _stamp(path) and time.time() - changed_s > SETTLED_S:
            self._used[name] = entry
        return str(entry["sha256"])

    def of_files(self, named: Iterable[tuple[str, Path]]) -> str:
        """sha256 over names and bytes of files, in the given order."""
        total = hashlib.sha256()
        for name, path in named:
            total.update(f"{name}\0{self.sha256(path)}\n".encode())
        return total.hexdigest()


def recall_node() -> bytes:
    """What processes of this user on this machine hashed, for ``FileHashes.from_json``."""
    folder = _node_folder()
    return (_is_ours(folder) and read_small(folder / NODE_FILE)) or b"{}"


def remember_node(hashes: FileHashes) -> None:
    """Adds hashes to those of this machine, in its folder for temporary files."""
    known = {name: entry for name, entry in _entries(recall_node()).items() if os.path.exists(name)}
    tree = dict(list((known | hashes.to_tree()).items())[-MOST_ENTRIES:])
    folder = _node_folder()
    if tree != known:
        with contextlib.suppress(OSError):
            folder.mkdir(mode=0o700, exist_ok=True)
        if _is_ours(folder):
            write_small(folder / NODE_FILE, json.dumps(tree).encode())


def _is_ours(folder: Path) -> bool:
    """Whether a folder is this user's, so that nobody else could put hashes there."""
    try:
        found = folder.lstat()
    except OSError:
        return False
    return stat.S_ISDIR(found.st_mode) and found.st_uid == os.getuid()


def _node_folder() -> Path:
    return Path(tempfile.gettempdir()) / f"overpaint-{os.getuid()}"


def _entries(data: bytes) -> dict[str, Mapping[str, Any]]:
    try:
        tree = json.loads(data)
    except (ValueError, RecursionError):
        return {}
    entries = tree.items() if isinstance(tree, dict) else ()
    return {name: entry for name, entry in entries if isinstance(entry, dict)}


def _stamp(path: Path) -> dict[str, int]:
    found = path.stat()
    return {
        "size": found.st_size,
        "mtime_ns": found.st_mtime_ns,
        "ctime_ns": found.st_ctime_ns,
        "inode": found.st_ino,
    }


def _read(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        while chunk := stream.read(CHUNK_BYTES):
            digest.update(chunk)
            heartbeat()
    return digest.hexdigest()
