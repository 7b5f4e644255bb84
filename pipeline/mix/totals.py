"""The files of a whole mix beside those of its shards (``trees.py``).

    imagefolder    train/metadata.jsonl
    coco           annotations/instances_train.json, annotations/captions_train.json
    yolo           data.yaml

They are made of the pages of all shards.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import yaml

from pipeline.mix.survey import MixError
from pipeline.mix.trees import Entry, Page


def instances_name(split: str) -> str:
    return f"annotations/instances_{split}.json"


def captions_name(split: str) -> str:
    return f"annotations/captions_{split}.json"


def total_names(form: str, splits: Sequence[str]) -> list[str]:
    """The names of what ``totals`` may yield, in its order."""
    if form == "imagefolder":
        return [f"{split}/metadata.jsonl" for split in splits]
    if form == "coco":
        return [name(split) for split in splits for name in (instances_name, captions_name)]
    return ["data.yaml"] if form == "yolo" else []


def totals(form: str, pages: Mapping[str, Iterable[Page]]) -> Iterator[tuple[str, bytes]]:
    """The files of the whole mix.

    Args:
        form: of the mix.
        pages: of each split, in the order of its shards; iterated up to three times. A file of the
            mix is made in memory.

    Raises:
        MixError: two shards give a category two names.
    """
    if form == "imagefolder":
        for split, of_split in pages.items():
            yield f"{split}/metadata.jsonl", _metadata(split, of_split)
        return
    names = _category_names(pages)
    if form == "yolo":
        yield "data.yaml", _data_yaml(list(pages), names)
        return
    for split, of_split in pages.items():
        yield from _coco(split, of_split, names)


def _category_names(pages: Mapping[str, Iterable[Page]]) -> dict[int, str]:
    """The names of all categories by number, the same for all splits.

    Where originals name a category, edits that were relabeled may have another word for it.

    Raises:
        MixError: a number has two names.
    """
    names: dict[int, str] = {}
    for kind in ("original", "edited"):
        fixed = dict(names)
        for entry in _entries(pages):
            if entry["mix"]["kind"] != kind:
                continue
            for one in (entry["boxes"] or {}).get("categories", []):
                number, name = one["id"], one["name"]
                if number not in fixed and names.setdefault(number, name) != name:
                    raise MixError(
                        f"{entry['file_name']}: the category {number} is {name!r} here and "
                        f"{names[number]!r} in another image; mix sources with the same categories"
                    )
    return dict(sorted(names.items()))


def _entries(pages: Mapping[str, Iterable[Page]]) -> Iterator[Entry]:
    for of_split in pages.values():
        for page in of_split:
            yield from page.entries


def _metadata(split: str, pages: Iterable[Page]) -> bytes:
    """JSON lines, as ``datasets`` reads them beside images; paths are below the split."""
    lines = []
    for page in pages:
        for entry in page.entries:
            line = {"file_name": entry["file_name"].removeprefix(f"{split}/")}
            line |= {"text": entry["text"], "label": entry["label"]}
            line |= {name: entry["mix"][name] for name in ("kind", "weight", "shard", "key")}
            lines.append(json.dumps(line, ensure_ascii=True))
    return "".join(f"{line}\n" for line in lines).encode()


def _coco(
    split: str, pages: Iterable[Page], names: Mapping[int, str]
) -> Iterator[tuple[str, bytes]]:
    """Instances, of the images with boxes alone (if there are any), and captions, of all."""
    images: list[dict[str, Any]] = []
    with_boxes: list[dict[str, Any]] = []
    captions: list[dict[str, Any]] = []
    instances: list[dict[str, Any]] = []
    for page in pages:
        for entry in page.entries:
            image = {"id": len(images) + 1, "file_name": entry["file_name"][len(split) + 1 :]}
            image |= {name: entry[name] for name in ("width", "height")}
            images.append(image)
            captions.append(
                {"id": len(captions) + 1, "image_id": image["id"], "caption": entry["text"]}
            )
            if entry["boxes"] is None:
                continue
            with_boxes.append(image)
            for box in entry["boxes"]["annotations"]:
                own = {"id": len(instances) + 1, "image_id": image["id"]}
                area = box["bbox"][2] * box["bbox"][3]
                instances.append({"area": area, "iscrowd": 0, "segmentation": []} | box | own)
    categories = [{"id": number, "name": name} for number, name in names.items()]
    if with_boxes:  # readers take an empty file for images without objects
        labels = _json(with_boxes, instances, categories=categories)
        yield instances_name(split), labels
    yield captions_name(split), _json(images, captions)


def _json(images: list[dict[str, Any]], annotations: list[dict[str, Any]], **more: Any) -> bytes:
    return json.dumps({"images": images, "annotations": annotations, **more}).encode()


def _data_yaml(splits: list[str], known: Mapping[int, str]) -> bytes:
    """What YOLO's trainers take; folders are relative to the file.

    They ask for a split ``val``: without one it is the first split. Numbers without a name get one,
    since the list has no gaps.
    """
    names = {
        number: known.get(number, f"unused_{number}")
        for number in range(max(known, default=-1) + 1)
    }
    tree: dict[str, Any] = {split: f"images/{split}" for split in splits}
    tree.setdefault("val", f"images/{splits[0]}")
    text: str = yaml.safe_dump(tree | {"names": names}, sort_keys=False, allow_unicode=True)
    return text.encode()
