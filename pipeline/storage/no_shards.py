"""Why no shard was found where a configuration names some, and what to do."""

from __future__ import annotations

import shlex
from itertools import islice
from typing import Any

from pipeline.records.printable import first_of
from pipeline.storage.formats import ending
from pipeline.storage.retry import StorageError
from pipeline.storage.store import open_backend

LOOKED_AT = 1000  # objects of a folder without shards
PACKED = "with tar --sort=name -cf 00000.tar *, or images with overpaint pack"
IMAGES = (".jpg", ".jpeg", ".png", ".webp")  # what overpaint pack takes unless told otherwise


def why_no_shards(folder: str, storage_options: dict[str, Any] | None) -> str:
    """The reason in words: no bucket, no such folder, other tars, a folder of other files.

    Args:
        folder: the entry of ``input.shards`` itself if it is no pattern, else the folder before
            its first wildcard.
        storage_options: for fsspec.
    """
    if folder.endswith("://"):  # a pattern in place of the bucket
        return "no bucket of that name has a match"
    backend = open_backend(folder, storage_options or {})
    try:
        backend.check_reachable()
    except StorageError as error:
        return str(error)
    names = [name for name, _ in islice(backend.each(""), LOOKED_AT)]
    if not names:
        is_file = ending(folder) is not None
        what = "there is no such file" if is_file else "there is no such folder, or it is empty"
        return f"{folder}: {what}"
    tars = [name for name in names if ending(name) is not None]
    if tars:
        return f"{folder} has other tars, e.g. {first_of(tars)}"
    how = f"with {pack_command(folder)}" if any(map(is_image, names)) else PACKED
    return (
        f"{folder} has no .tar, but {first_of(names)}; shards are tars in which the files of a "
        f"sample share a key (7.jpg, 7.txt, 7.edit.txt): pack the files {how}"
    )


def is_image(name: str) -> bool:
    return name.lower().endswith(IMAGES)


def pack_command(folder: str) -> str:
    """The command that makes shards of a folder of images."""
    return f"overpaint pack SHARDS {shlex.quote(folder)}"
