"""Small files that spare work: they may be missing, and a place that takes none is no error."""

from __future__ import annotations

import contextlib
import logging
import os
from pathlib import Path

log = logging.getLogger(__name__)


def read_small(path: Path) -> bytes | None:
    """The content of a file, or None if it cannot be read."""
    try:
        return path.read_bytes()
    except OSError:
        return None


def write_small(path: Path, data: bytes) -> None:
    """Replaces a file at once, or leaves it if its folder cannot be written."""
    partial = path.with_name(f"{path.name}.{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        partial.write_bytes(data)
        os.replace(partial, path)
    except OSError as error:
        log.debug("%s: %s", path, error)
        with contextlib.suppress(OSError):
            partial.unlink()
