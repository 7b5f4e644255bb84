"""A folder for each class: ``dog/1.jpg`` has the class ``dog``."""

from __future__ import annotations

from pipeline.config.pack import Pack
from pipeline.pack.folder import Folder
from pipeline.pack.found import Found, Item, PackError
from pipeline.records.printable import first_of

OUTSIDE = "images outside of a class's folder"


def from_class_tree(folder: Folder, pack: Pack) -> Found:
    """The images below the folders of classes, by name; classes are numbered in sorted order.

    Raises:
        PackError: no image lies in a folder.
    """
    classes = sorted({name.partition("/")[0] for name in folder.images if "/" in name})
    if not classes:
        raise PackError(
            f"{folder.url}: there are {len(folder.images)} images, but no captions: add a table "
            "(captions.csv with the columns file_name and text), name one, or put the images into "
            "a folder for each class"
        )
    shown = first_of(classes, 5)
    found = Found(f"{folder.url}: {len(classes)} classes: {shown}", classes=classes)
    numbers = {name: number for number, name in enumerate(classes)}
    for name, stat in folder.images.items():
        of_class, slash, _ = name.partition("/")
        if not slash:
            found.left_out.add(OUTSIDE, name)
            continue
        caption = captioned(pack.template, of_class)
        found.items.append(Item(folder.url, name, stat, caption, label=numbers[of_class]))
    return found


def captioned(template: str, words: str) -> str:
    """The template with a class's name in its place, with spaces for ``_``."""
    return template.replace("{class}", words.replace("_", " "))
