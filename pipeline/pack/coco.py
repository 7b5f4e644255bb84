"""COCO's annotations: boxes of instances, captions, or both, in one or several JSON files."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from pipeline.config.pack import Pack
from pipeline.pack.class_tree import captioned
from pipeline.pack.folder import Folder
from pipeline.pack.found import (
    DAMAGED_ROW,
    NAMED_AGAIN,
    NO_CAPTION,
    NO_IMAGE,
    Found,
    Item,
    PackError,
    joined,
)

OF_NO_IMAGE = "annotations of an image that the file does not list"


def from_coco(files: Sequence[tuple[str, bytes]], folder: Folder, pack: Pack) -> Found:
    """The images that COCO's files list, in their order; what the files say of one is joined.

    The caption is the first one of the image; without any, the template with its boxes' classes.

    Args:
        files: name and bytes of each.
        folder: of the images.
        pack: the settings.

    Raises:
        PackError: a file is none of COCO's, or two files give a category two names.
    """
    found = Found("COCO: " + ", ".join(name for name, _ in files))
    joined_files = _Annotations(found)
    for name, data in files:
        joined_files.add(name, _parsed(name, data))
    for name, image in joined_files.images.items():
        stat = folder.images.get(folder.name_of(name))
        caption = joined_files.caption(name, pack)
        if stat is None:
            found.left_out.add(NO_IMAGE, name)
        elif not caption:
            found.left_out.add(NO_CAPTION, name)
        else:
            boxes = joined_files.boxes_of(name, image) if joined_files.has_boxes else None
            item = Item(folder.url, folder.name_of(name), stat, caption, boxes=boxes)
            found.items.append(item)
    listed = {folder.name_of(name) for name in joined_files.images}
    for name in folder.images:
        if name not in listed:
            found.left_out.add(NO_CAPTION, name)
    return found


class _Annotations:
    """What several files say of the same images; ids are those of one file, names are shared."""

    def __init__(self, found: Found) -> None:
        self.found = found
        self.images: dict[str, dict[str, Any]] = {}  # by file name, in the files' order
        self.captions: dict[str, str] = {}
        self.boxes: dict[str, list[dict[str, Any]]] = {}
        self.categories: dict[int, str] = {}
        self.has_boxes = False

    def add(self, file: str, tree: dict[str, Any]) -> None:
        names: dict[str, str] = {}  # of images, by id
        for image in tree["images"]:
            if not isinstance(image, dict) or not isinstance(image.get("file_name"), str):
                self.found.left_out.add(DAMAGED_ROW, f"{file}: {image!r:.60}")
                continue
            names[str(image.get("id"))] = image["file_name"]
            self.images.setdefault(image["file_name"], image)
        for category in tree.get("categories", []):
            number, name = category["id"], str(category["name"])
            if self.categories.setdefault(number, name) != name:
                raise PackError(
                    f"{file}: the category {number} is {name!r} here and "
                    f"{self.categories[number]!r} in another file; pack them one by one"
                )
        for annotation in tree["annotations"]:
            self._annotate(file, names, annotation)

    def _annotate(self, file: str, names: dict[str, str], annotation: Any) -> None:
        named = names.get(str(annotation.get("image_id"))) if isinstance(annotation, dict) else None
        if named is None:
            self.found.left_out.add(OF_NO_IMAGE, f"{file}: {annotation!r:.60}")
        elif isinstance(annotation.get("caption"), str):
            if self.captions.setdefault(named, annotation["caption"]) is not annotation["caption"]:
                self.found.left_out.add(NAMED_AGAIN, named)
        elif "bbox" in annotation:
            self.has_boxes = True
            self.boxes.setdefault(named, []).append(annotation)
        else:
            self.found.left_out.add(DAMAGED_ROW, f"{file}: {annotation!r:.60}")

    def caption(self, name: str, pack: Pack) -> str:
        """Its own, or the template with the names of its boxes' classes; empty if it has none."""
        own = " ".join(self.captions.get(name, "").split())
        ids = [_category(box) for box in self.boxes.get(name, [])]
        words = list(dict.fromkeys(self.categories[key] for key in ids if key in self.categories))
        return own or (captioned(pack.template, joined(words)) if words else "")

    def boxes_of(self, name: str, image: dict[str, Any]) -> dict[str, Any]:
        """``key.boxes.json``: the image's size, its annotations as they are, their categories."""
        boxes = self.boxes.get(name, [])
        used = {_category(box) for box in boxes}
        return {
            "width": image.get("width"),
            "height": image.get("height"),
            "annotations": boxes,
            "categories": [
                {"id": number, "name": self.categories[number]}
                for number in sorted(self.categories)
                if number in used
            ],
        }


def _category(box: dict[str, Any]) -> int:
    number = box.get("category_id")
    return number if isinstance(number, int) else -1


def _parsed(name: str, data: bytes) -> dict[str, Any]:
    try:
        tree = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise PackError(f"{name}: is no JSON: {error}") from None
    lists = ("images", "annotations")
    if not isinstance(tree, dict) or not all(isinstance(tree.get(key), list) for key in lists):
        raise PackError(f"{name}: is none of COCO's files: these have images and annotations")
    categories = tree.get("categories", [])
    if not isinstance(categories, list) or not all(
        isinstance(one, dict) and isinstance(one.get("id"), int) and "name" in one
        for one in categories
    ):
        raise PackError(f"{name}: each of the categories needs an id, a whole number, and a name")
    return tree
