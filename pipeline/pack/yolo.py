"""YOLO's layout: ``images/7.jpg``, ``labels/7.txt``, and ``data.yaml`` or ``classes.txt``."""

from __future__ import annotations

import io
import math
from typing import Any

from PIL import ExifTags, Image

from pipeline.config.pack import Pack
from pipeline.config.yaml_text import parse_yaml
from pipeline.pack.class_tree import captioned
from pipeline.pack.folder import Folder
from pipeline.pack.found import NO_CAPTION, Found, Item, LeftOut, PackError, joined

CLASS_FILES = ("data.yaml", "dataset.yaml", "classes.txt")
NO_LABELS_IMAGE = "label files without an image"
SIDEWAYS = (5, 6, 7, 8)  # orientations of EXIF that swap width and height
DAMAGED_LABELS = "images with a damaged label file"


def is_yolo(folder: Folder) -> bool:
    """Whether the folder has labels beside images, and a list of classes."""
    has_labels = any(name.startswith("labels/") for name in folder.others)
    return has_labels and any(name in CLASS_FILES for name in folder.others)


def from_yolo(folder: Folder, pack: Pack) -> Found:
    """The images below ``images``, with the boxes of the label file of the same name.

    Raises:
        PackError: there is no list of classes, or it cannot be read.
    """
    classes = _classes(folder)
    found = Found(f"YOLO: {folder.url}: {len(classes)} classes", classes=classes)
    labels = {name for name in folder.others if name.startswith("labels/")}
    for name, stat in folder.images.items():
        inside = name.removeprefix("images/").rpartition(".")[0]
        label_file = f"labels/{inside}.txt"
        if label_file not in labels:
            found.left_out.add(NO_CAPTION, name)
            continue
        labels.remove(label_file)
        try:
            text = folder.read(label_file).decode("utf-8")
            words = [classes[box[0]] for box in parsed(text, len(classes))]
        except ValueError:
            found.left_out.add(DAMAGED_LABELS, name)
            continue
        if not words:
            found.left_out.add(NO_CAPTION, name)
            continue
        caption = captioned(pack.template, joined(list(dict.fromkeys(words))))
        item = Item(folder.url, name, stat, caption, yolo=(text, tuple(classes)))
        found.items.append(item)
    _count_rest(labels, found.left_out)
    return found


def parsed(text: str, num_classes: int) -> list[tuple[int, tuple[float, float, float, float]]]:
    """The lines of a label file: class, and center x, center y, width, height in [0, 1].

    Raises:
        ValueError: a line has no five numbers, or its class is none of the list's.
    """
    boxes = []
    for line in filter(None, map(str.strip, text.splitlines())):
        number, *place = line.split()
        x, y, width, height = map(float, place)
        inside = all(math.isfinite(value) and 0 <= value <= 1 for value in (x, y, width, height))
        if not 0 <= int(number) < num_classes or not inside:
            raise ValueError(f"not a box: {line!r}")
        boxes.append((int(number), (x, y, width, height)))
    return boxes


def boxes_of(text: str, classes: tuple[str, ...], image: bytes) -> dict[str, Any]:
    """``key.boxes.json`` of a label file: boxes in pixels, as COCO writes them (x, y, w, h).

    Raises:
        OSError: the image's size cannot be read.
    """
    with Image.open(io.BytesIO(image)) as opened:
        image_width, image_height = opened.size
        # The labels are of the image as it is seen, and so are the boxes of an edit.
        if opened.getexif().get(ExifTags.Base.Orientation, 1) in SIDEWAYS:
            image_width, image_height = image_height, image_width
    annotations = []
    lines = parsed(text, len(classes))
    for number, (x, y, width, height) in lines:
        box = (
            (x - width / 2) * image_width,
            (y - height / 2) * image_height,
            width * image_width,
            height * image_height,
        )
        annotations.append({"bbox": [round(side, 3) for side in box], "category_id": number})
    return {
        "width": image_width,
        "height": image_height,
        "annotations": annotations,
        "categories": [
            {"id": number, "name": classes[number]} for number in sorted({one[0] for one in lines})
        ],
    }


def _classes(folder: Folder) -> list[str]:
    """The names by number: ``names`` of data.yaml as a list or mapping, or lines of a text."""
    name = next((name for name in CLASS_FILES if name in folder.others), None)
    if name is None:
        raise PackError(f"{folder.url}: there is no list of classes: {' or '.join(CLASS_FILES)}")
    text = folder.read(name).decode("utf-8", "replace")
    if name.endswith(".txt"):
        return [line.strip() for line in text.splitlines() if line.strip()]
    try:
        tree = parse_yaml(text)
    except ValueError as error:
        raise PackError(f"{folder.url}/{name}: {error}") from None
    names = tree.get("names") if isinstance(tree, dict) else None
    if isinstance(names, dict) and sorted(names) == list(range(len(names))):
        names = [names[number] for number in range(len(names))]
    if not isinstance(names, list) or not names:
        raise PackError(
            f"{folder.url}/{name}: names must list the classes, or map 0, 1, ... to them"
        )
    return [str(one) for one in names]


def _count_rest(labels: set[str], left_out: LeftOut) -> None:
    for name in sorted(labels):
        if name.endswith(".txt"):
            left_out.add(NO_LABELS_IMAGE, name)
