"""Urls: which are refused, one spelling of each, and the folder that a pattern names."""

from __future__ import annotations

import os
import re
from functools import lru_cache
from itertools import takewhile

from pipeline.storage.credentials import check_no_credentials

LOCAL = ("file", "local")  # protocols
MAGIC = re.compile(r"[*?\[]")


def check_url(url: str) -> None:
    """Refuses urls that are dangerous, or that two tools would read in two ways.

    These run a command (``pipe:``), chain file systems (``zip::s3://``), hold a password, or have
    parts that a bucket takes as part of the name and a file system does not.

    Raises:
        ValueError: names the url and what is allowed.
    """
    if url.startswith("pipe:"):
        raise ValueError(f"{url!r}: pipe: urls run commands and are refused; give a path or a url")
    if "::" in url:
        raise ValueError(f"{url!r}: chained urls are refused; give one path or url")
    check_no_credentials(url)
    protocol, separator, place = url.partition("://")
    if not separator or protocol in LOCAL:
        return
    parts = place.removeprefix("/" if protocol == "memory" else "").rstrip("/").split("/")
    if parts != [""] and any(part in ("", ".", "..") for part in parts):
        raise ValueError(
            f"{url!r}: no part of a url may be empty, '.' or '..': a bucket takes it as part of "
            "the name, and tools disagree on it; rename such objects"
        )


def protocol_of(url: str) -> str:
    """What precedes ``://`` in a url; "file" for a path."""
    return url.split("://", 1)[0] if "://" in url else "file"


def local_path(url: str) -> str:
    """The absolute path of a local url, which may have a scheme or begin with ``~``."""
    for protocol in LOCAL:
        url = url.removeprefix(f"{protocol}://")
    return os.path.abspath(os.path.expanduser(url))


def absolute(url: str) -> str:
    """The one spelling of an object's url: a resolved path, or a url without a trailing slash."""
    protocol = protocol_of(url)
    if protocol in LOCAL:
        return os.path.realpath(local_path(url))
    return protocol + "://" + url.split("://", 1)[1].strip("/")


def resolved(url: str) -> str:
    """``absolute`` of a shard's url, fast: a million take a few seconds."""
    if "://" in url or os.path.islink(url):
        return absolute(url)
    folder, name = os.path.split(url)
    return os.path.join(_real_folder(folder), name)


@lru_cache(maxsize=1024)
def _real_folder(folder: str) -> str:
    return os.path.realpath(folder)


def static_root(entry: str, *, is_folder: bool, is_literal: bool = False) -> str:
    """The folder that an entry names before its first pattern character."""
    first = None if is_literal else re.search(r"[*?\[{]", entry)
    if first is None:
        path = absolute(entry)
        return path if is_folder else split_url(path)[0]
    static = entry[: first.start()]
    if static.endswith("://"):  # a pattern in place of the bucket
        return static
    if "/" not in static:
        return absolute(".")
    return absolute(split_url(static)[0])


def split_url(url: str) -> tuple[str, str]:
    """(folder, name). The folder of ``/x`` is ``/``; that of ``memory://x`` is ``memory://``."""
    folder, _, name = url.rpartition("/")
    if folder.endswith(":/"):
        folder += "/"
    return folder or "/", name


def common_folder(roots: list[str]) -> str:
    common = roots[0].rstrip("/").split("/")
    for root in roots[1:]:
        pairs = zip(common, root.rstrip("/").split("/"), strict=False)
        common = [part for part, _ in takewhile(lambda pair: pair[0] == pair[1], pairs)]
    return "/".join(common) + "/"
