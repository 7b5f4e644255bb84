"""Finds out what each source is, and reads what it says of its images."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from pipeline.config.pack import Pack, Packing
from pipeline.pack.class_tree import from_class_tree
from pipeline.pack.coco import from_coco
from pipeline.pack.dataset import dataset_files, from_dataset, holds_images
from pipeline.pack.folder import Folder, list_folder, split_url
from pipeline.pack.found import Found, PackError
from pipeline.pack.keys import unique_keys
from pipeline.pack.table_source import from_table
from pipeline.pack.tables import TABLES, ending_of, read_table
from pipeline.pack.yolo import from_yolo, is_yolo
from pipeline.storage.store import Store
from pipeline.storage.urls import check_url

LINKED = "folders that are links; name them as sources to read them"
STATS = "_stats.json"  # img2dataset writes one beside each shard


def find_sources(packing: Packing) -> list[Found]:
    """What the sources hold, in the order of the sources; keys are unique over all of them.

    COCO's files are one source together. Keys of several sources begin with a source's number.

    Raises:
        PackError: a source is nothing that can be packed, or already packed; says what to do.
        OSError: a source cannot be listed or read.
    """
    pack, options = packing.pack, packing.source.storage_options
    if len(set(packing.source.paths)) < len(packing.source.paths):
        raise PackError(f"source.paths={packing.source.paths}: a source is named twice")
    annotations = [path for path in packing.source.paths if _is_coco(path, pack)]
    found = [_coco(annotations, pack, options)] if annotations else []
    for path in packing.source.paths:
        if path not in annotations:
            found.append(_one(path, pack, options))
    named = [
        item.name if len(found) == 1 else f"{number}/{item.name}"
        for number, one in enumerate(found)
        for item in one.items
    ]
    keys = iter(unique_keys(named))
    for one in found:
        one.items = [item.keyed(next(keys)) for item in one.items]
    with_classes = [one.classes for one in found if one.classes]
    if any(classes != with_classes[0] for classes in with_classes):
        raise PackError(
            "the sources have different classes, and a class has one number in an output: pack "
            "them into several outputs, which input.shards can name together"
        )
    return found


def _is_coco(path: str, pack: Pack) -> bool:
    return ending_of(path) == "json" and pack.format in ("auto", "coco")


def _coco(files: Sequence[str], pack: Pack, options: dict[str, Any]) -> Found:
    where = {split_url(path)[0] for path in files}
    if pack.images is None and len(where) > 1:
        raise PackError(
            f"pack.images must name the folder of the images, since {files[0]} and others lie in "
            "several folders"
        )
    folder = list_folder(pack.images or where.pop(), pack.suffixes, options)
    files_read = [(path, _read(path, options)) for path in files]
    return _with_links(from_coco(files_read, folder, pack), folder)


def _one(path: str, pack: Pack, options: dict[str, Any]) -> Found:
    """A source that is a table, or a folder."""
    if ending_of(path) in TABLES and pack.format in ("auto", "table"):
        home = pack.images or split_url(path)[0]
        folder = list_folder(home, pack.suffixes, options)
        return _with_links(from_table(read_table(path, _read(path, options)), folder, pack), folder)
    folder = list_folder(path, pack.suffixes, options)
    _refuse_shards(folder)
    if pack.format == "auto" and not folder.images and not pack.images:
        files = dataset_files(folder)
        if holds_images(folder, files):
            return from_dataset(folder, files, pack)
    tables = [name for name in folder.others if "/" not in name and ending_of(name) in TABLES]
    if pack.format == "table" or (pack.format == "auto" and tables):
        if len(tables) != 1:
            raise PackError(
                f"{path}: there are {len(tables)} tables ({', '.join(tables[:3]) or 'none'}); give "
                "the one to use as the source, e.g. captions.csv beside the images, or with "
                "pack.images=FOLDER"
            )
        images = list_folder(pack.images, pack.suffixes, options) if pack.images else folder
        table = read_table(f"{path}/{tables[0]}", folder.read(tables[0]))
        return _with_links(from_table(table, images, pack), images)
    if pack.format == "dataset":
        if not (files := dataset_files(folder)):
            raise PackError(f"{path}: there is no Parquet file, nor a data set of datasets")
        return from_dataset(folder, files, pack)
    if not folder.images:
        raise PackError(_nothing_in(folder, pack))
    if pack.format == "yolo" or (pack.format == "auto" and is_yolo(folder)):
        return _with_links(from_yolo(folder, pack), folder)
    if pack.format == "coco":
        raise PackError(f"{path}: with pack.format=coco the sources are COCO's JSON files")
    return _with_links(from_class_tree(folder, pack), folder)


def _with_links(found: Found, folder: Folder) -> Found:
    """Counts the folders that are links: to follow them may never end."""
    for name in folder.linked:
        found.left_out.add(LINKED, name)
    return found


def _read(path: str, options: dict[str, Any]) -> bytes:
    check_url(path)
    place, name = split_url(path)
    try:
        return Store(place, options).get(name)
    except FileNotFoundError:
        raise PackError(f"{path}: there is no such file") from None


def _refuse_shards(folder: Folder) -> None:
    """Points at ``input.shards`` where the folder is packed already, as img2dataset's output is."""
    if not folder.tars:
        return
    whose = "holds shards already"
    if any(name.endswith(STATS) for name in folder.others):
        whose = "holds shards as img2dataset writes them"
    raise PackError(
        f"{folder.url}: {whose}, e.g. {folder.tars[0]}: they are used as they are, with "
        f"input.shards='{folder.url}/*.tar'; there is nothing to pack"
    )


def _nothing_in(folder: Folder, pack: Pack) -> str:
    if not folder.others:
        return f"{folder.url}: there is no such folder, or it is empty"
    return (
        f"{folder.url}: no image ends in .{', .'.join(pack.suffixes)} (pack.suffixes); there is "
        f"{', '.join(folder.others[:3])}"
    )
