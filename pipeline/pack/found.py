"""What a source holds: a list of images with their texts, and a count of what is left out."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

from pipeline.storage.local_folder import Stat

MAX_NAMES = 3  # of each reason, in a message and in a marker

NO_CAPTION = "images without a caption"
NO_IMAGE = "captions without an image"
NAMED_AGAIN = "further captions of an image that has one"
DAMAGED_ROW = "rows that cannot be read"


class PackError(ValueError):
    """Sources or settings cannot be packed; the message names them and says what is allowed."""


@dataclass(frozen=True, slots=True)  # a source may hold a million of them
class Item:
    """An image that is to be packed."""

    folder: str  # url of the folder of images
    name: str  # of the file, relative to that folder
    stat: Stat
    caption: str
    edits: tuple[str, ...] = ()
    label: int | None = None
    boxes: dict[str, Any] | None = None  # ``key.boxes.json``, in COCO's terms
    yolo: tuple[str, tuple[str, ...]] | None = None  # a label file's text, and the names of classes
    columns: dict[str, Any] = field(default_factory=dict)  # for ``key.json``
    key: str = ""

    def keyed(self, key: str) -> Item:
        return replace(self, key=key)


class LeftOut:
    """Counts what is left out by reason, and keeps the first names of each."""

    def __init__(self) -> None:
        self.counts: dict[str, int] = {}
        self.names: dict[str, list[str]] = {}

    def add(self, reason: str, name: str) -> None:
        self.counts[reason] = self.counts.get(reason, 0) + 1
        names = self.names.setdefault(reason, [])
        if len(names) < MAX_NAMES:
            names.append(as_utf8(name))

    def join(self, counts: dict[str, int], names: dict[str, list[str]]) -> None:
        """Adds those of another part of the work, in its order."""
        for reason, count in counts.items():
            self.counts[reason] = self.counts.get(reason, 0) + count
            own = self.names.setdefault(reason, [])
            own.extend(names.get(reason, [])[: MAX_NAMES - len(own)])

    @property
    def total(self) -> int:
        return sum(self.counts.values())

    def lines(self) -> Iterable[str]:
        """``3: images without a caption, e.g. 'a.jpg', 'b.jpg'``, a line for each reason."""
        for reason, count in sorted(self.counts.items()):
            names = ", ".join(repr(name) for name in self.names.get(reason, []))
            yield f"{count}: {reason}" + (f", e.g. {names}" if names else "")


class Reader(Protocol):
    """Reads an image by its name, as a ``Store`` does."""

    def get(self, name: str, /) -> bytes: ...


@dataclass
class Found:
    """All that a source holds."""

    what: str  # in words, for the plan that is printed
    items: list[Item] = field(default_factory=list)
    left_out: LeftOut = field(default_factory=LeftOut)
    classes: list[str] = field(default_factory=list)  # names by number, if there are any
    reader: Reader | None = None  # of the images, where they are no files of their folder


def as_utf8(name: str) -> str:
    """The name with each byte that is not UTF-8 as an escape, since JSON cannot hold it."""
    return name.encode("utf-8", "surrogatepass").decode("utf-8", "backslashreplace")


def joined(names: Sequence[str]) -> str:
    """``dog``, ``dog and cat``, ``dog, cat and bird``."""
    return " and ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names)
