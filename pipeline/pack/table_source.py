"""A folder of images with a table of captions; and the texts in a row of any table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from pipeline.config.pack import Pack
from pipeline.pack.folder import Folder
from pipeline.pack.found import (
    DAMAGED_ROW,
    NAMED_AGAIN,
    NO_CAPTION,
    NO_IMAGE,
    Found,
    Item,
    PackError,
)
from pipeline.pack.tables import CaptionTable
from pipeline.storage.local_folder import Stat

IMAGE_COLUMNS = ("file_name", "image", "filename", "file", "path")
CAPTION_COLUMNS = ("caption", "text")
EDIT_COLUMNS = ("edits", "edit", "edit_text")


@dataclass(frozen=True)
class TextColumns:
    """The columns of a table that hold what is said of an image."""

    caption: str
    edits: Sequence[str]
    label: str | None
    extras: Sequence[str]

    @property
    def names(self) -> list[str]:
        named = [self.caption, *self.edits, *([self.label] if self.label else []), *self.extras]
        return list(dict.fromkeys(named))

    def item(
        self,
        place: tuple[str, str, Stat],
        row: Mapping[str, Any],
        numbers: Mapping[str, int | None],
    ) -> Item | None:
        """The image at a place (folder, name, stat) with a row's texts; None without a caption."""
        folder, name, stat = place
        caption = text_of(row[self.caption]).strip()
        if not caption:
            return None
        return Item(
            folder,
            name,
            stat,
            caption,
            edits=tuple(line for column in self.edits for line in _lines(row[column])),
            label=None if self.label is None else numbers[text_of(row[self.label])],
            columns={column: _plain(row[column]) for column in self.extras},
        )

    def in_words(self) -> str:
        edits = f"edit texts in {', '.join(self.edits)}" if self.edits else "no edit texts"
        return f"captions in {self.caption}, {edits}"


@dataclass
class Classes:
    """The number of each value of a column of classes, and the names if these were texts."""

    numbers: dict[str, int | None] = field(default_factory=dict)
    names: list[str] = field(default_factory=list)


def text_columns(table: CaptionTable, pack: Pack) -> TextColumns:
    """Raises PackError: a column that is needed or named by a key is not there."""
    caption = needed(table, "caption", pack.caption, CAPTION_COLUMNS)
    label = table.column("label", pack.label, ())
    extras = [table.column("extras", name, ()) or name for name in pack.extras]
    return TextColumns(caption, _edit_columns(table, pack), label, extras)


def needed(table: CaptionTable, key: str, wanted: str | None, usual: Sequence[str]) -> str:
    """The column that a key names, or the first usual one.

    Raises:
        PackError: there is none; says which columns there are.
    """
    column = table.column(key, wanted, usual)
    if column is None:
        raise PackError(
            f"{table.name} has no column {' or '.join(usual)}; it has {table.shown_names}: name "
            f"one with pack.{key}=COLUMN"
        )
    return column


def from_table(table: CaptionTable, folder: Folder, pack: Pack) -> Found:
    """The images that a table names, in its order.

    Raises:
        PackError: a column that is needed or named by a key is not there.
    """
    image = needed(table, "image", pack.image, IMAGE_COLUMNS)
    texts = text_columns(table, pack)
    classes = classes_of([] if texts.label is None else table.columns[texts.label])
    what = f"{table.name}: images in {image}, {texts.in_words()}"
    found = Found(what, classes=classes.names)
    for damaged in table.damaged:
        found.left_out.add(DAMAGED_ROW, f"{table.name}: {damaged}")
    named: set[str] = set()
    for row in table.rows([image, *texts.names]):
        name = folder.name_of(text_of(row[image]))
        stat = folder.images.get(name)
        if stat is None:
            found.left_out.add(NO_IMAGE, name)
            continue
        if name in named:
            found.left_out.add(NAMED_AGAIN, name)
            continue
        named.add(name)
        item = texts.item((folder.url, name, stat), row, classes.numbers)
        if item is None:
            found.left_out.add(NO_CAPTION, name)
        else:
            found.items.append(item)
    for name in folder.images:
        if name not in named:
            found.left_out.add(NO_CAPTION, name)
    return found


def classes_of(values: Sequence[Any]) -> Classes:
    """Whole numbers are classes themselves; other texts are numbered in sorted order."""
    texts = {text_of(value) for value in values}
    given = sorted(text for text in texts if text.strip())
    if all(text.strip().isdecimal() for text in given):
        return Classes({text: int(text) if text.strip() else None for text in texts})
    by_name = {name: number for number, name in enumerate(given)}
    return Classes({text: by_name.get(text) for text in texts}, given)


def text_of(value: Any) -> str:
    return "" if value is None else str(value)


def _edit_columns(table: CaptionTable, pack: Pack) -> list[str]:
    if pack.edits is None or isinstance(pack.edits, str):
        column = table.column("edits", pack.edits, EDIT_COLUMNS)
        return [] if column is None else [column]
    return [table.column("edits", name, ()) or name for name in pack.edits]


def _lines(value: Any) -> list[str]:
    """The edit texts in a cell: a list has one an element, a text one a line."""
    if isinstance(value, list):
        texts = [" ".join(text_of(one).split()) for one in value]
    else:
        texts = [line.strip() for line in text_of(value).splitlines()]
    return [text for text in texts if text]


def _plain(value: Any) -> Any:
    """A value as JSON has it; what JSON has no kind for, such as a time, as a text."""
    return value if isinstance(value, str | int | float | bool | list | dict | None) else str(value)
