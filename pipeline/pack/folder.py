"""The images of a folder or of a prefix of a bucket, listed once."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field
from typing import Any

from pipeline.pack.tables import ending_of
from pipeline.storage.formats import ending
from pipeline.storage.local_folder import LocalFolder, Stat
from pipeline.storage.retry import with_retries
from pipeline.storage.store import Store, open_backend
from pipeline.storage.urls import check_url, local_path


@dataclass
class Folder:
    """What lies in a folder; files and folders whose names begin with a dot are not looked at."""

    url: str
    storage_options: dict[str, Any]
    images: dict[str, Stat] = field(default_factory=dict)  # by name, in byte order
    others: list[str] = field(default_factory=list)
    stats: dict[str, Stat] = field(default_factory=dict)  # of the others
    tars: list[str] = field(default_factory=list)
    linked: list[str] = field(default_factory=list)  # folders that are links, and not followed

    def read(self, name: str) -> bytes:
        return Store(self.url, self.storage_options).get(name)

    def name_of(self, written: str) -> str:
        """The name of an image as a table writes it: relative, or the whole path or url."""
        for root in (self.url, local_path(self.url) if "://" not in self.url else self.url):
            written = written.removeprefix(f"{root.rstrip('/')}/")
        return written if written in self.images else written.removeprefix("./")


def list_folder(url: str, suffixes: Collection[str], storage_options: dict[str, Any]) -> Folder:
    """Lists a folder.

    Args:
        url: a path or url.
        suffixes: of images, in lower case.
        storage_options: for fsspec.

    Raises:
        OSError: the store does not answer, or the bucket is missing.
        ValueError: the url is refused (see ``check_url``).
    """
    check_url(url)
    folder = Folder(url.rstrip("/") or "/", storage_options)
    backend = open_backend(folder.url, storage_options)
    with_retries(backend.check_reachable, what=f"reach {url}", first=True)
    listed = with_retries(lambda: dict(backend.each("")), what=f"list {url}", first=True)
    for name in sorted(listed, key=lambda name: name.encode("utf-8", "surrogateescape")):
        if any(part.startswith(".") for part in name.split("/")):
            continue
        if ending_of(name) in suffixes:
            folder.images[name] = listed[name]
        elif ending(name) is not None:
            folder.tars.append(name)
        else:
            folder.others.append(name)
            folder.stats[name] = listed[name]
    if isinstance(backend, LocalFolder):
        folder.linked = list(backend.linked_folders)
    return folder


def split_url(url: str) -> tuple[str, str]:
    """The folder of a file, and its name: that of ``x.csv`` is ``.``."""
    folder, slash, name = url.rpartition("/")
    return (folder or "/") if slash else ".", name
