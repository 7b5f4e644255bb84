"""The names of shards: what an output calls them, and which cannot be written beside each other."""

from __future__ import annotations

import re
from collections.abc import Sequence

from pipeline.records.printable import UNPRINTABLE
from pipeline.storage.formats import ending

RESERVED = ("_run", "_parts", "_rejected")
# A folder in a shard's name that is called like a file of the output of another shard, or of a mix
OUTPUT_FOLDER = re.compile(
    r"(?:\.tar|\.parquet|_stats\.json|\.json|/\d{5,}-of-\d{5,}(?:-[0-9a-f]{12})?\.arrow|/generation\.claim)(?=/)"
)


def shard_name(url: str, prefix: str) -> str:
    name = url[len(prefix) :] if url.startswith(prefix) else url.split("://", 1)[-1].lstrip("/")
    return name.removesuffix(ending(name) or "")


def check_names(shards: Sequence[tuple[str, str]]) -> None:
    """Refuses names that cannot be written, or not beside each other, before anything is done.

    Args:
        shards: (url, name) of each shard, sorted by name.

    Raises:
        ValueError: names the url, the name and what is allowed.
    """
    every = {name for _, name in shards}
    for (url, name), following in zip(shards, [*shards[1:], None], strict=True):
        if following is not None and name == following[1]:
            raise ValueError(
                f"input.shards: {url!r} and {following[0]!r} would both be written as {name!r}; "
                "rename one, or write them to two outputs"
            )
        _check_name(url, name)
        for folder in OUTPUT_FOLDER.finditer(name):
            other = name[: folder.start()]
            if other in every:
                raise ValueError(
                    f"input.shards: {url!r} would be written into the folder "
                    f"{name[: folder.end()]!r}, but the shard {other!r} writes a file of that "
                    "name; rename one, or write them to two outputs"
                )


def _check_name(url: str, name: str) -> None:
    parts = name.split("/")
    if parts[0] in RESERVED or any(part in ("", ".", "..") for part in parts):
        raise ValueError(
            f"input.shards: {url!r} would be written as {name!r}; rename it: "
            f"{', '.join(RESERVED)} are reserved for the output itself, and no part of a name may "
            "be empty, '.' or '..'"
        )
    if UNPRINTABLE.search(name):
        raise ValueError(
            f"input.shards: {url!r} has control characters in its name, or bytes that are not "
            "UTF-8; rename it"
        )
