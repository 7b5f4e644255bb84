"""A data set of Hugging Face's on disk: Parquet or Arrow files that hold the images themselves.

The files are Arrow's own formats, so the library ``datasets`` is not needed.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.config.pack import Pack
from pipeline.pack.folder import Folder
from pipeline.pack.found import NO_CAPTION, Found, PackError
from pipeline.pack.table_source import classes_of, needed, text_columns
from pipeline.pack.tables import CaptionTable, ending_of
from pipeline.storage.urls import LOCAL, local_path

STATE, SPLITS = "state.json", "dataset_dict.json"  # of datasets' save_to_disk
IMAGE_COLUMNS = ("image", "img", "picture")
ROW = "row"  # the suffix in the name of a row: the bytes say which format it has
FEATURES = b"huggingface"  # in the metadata of a schema


class Rows:
    """The images in the rows of files, read one group of rows after the other."""

    def __init__(self, folder: Folder, image: str) -> None:
        self.folder, self.image = folder, image
        self.files: dict[str, str] = {}  # by the part of a row's name before the last slash
        self._open: tuple[str, _File] | None = None

    def name(self, file: str, number: int) -> str:
        """``train-00000/00000012.row``."""
        stem = file.rpartition(".")[0]
        self.files[stem] = file
        return f"{stem}/{number:08d}.{ROW}"

    def get(self, name: str) -> bytes:
        """The bytes of a row's image.

        Raises:
            FileNotFoundError: the row has none.
        """
        stem, _, number = name.removesuffix(f".{ROW}").rpartition("/")
        file = self.files[stem]
        if self._open is None or self._open[0] != file:
            self._open = (file, _File(self.folder, file))
        cell = self._open[1].cell(int(number), self.image)
        data = cell.get("bytes") if isinstance(cell, dict) else cell
        if not isinstance(data, bytes):
            raise FileNotFoundError(f"{name}: the row has no image")
        return data


class _File:
    """A Parquet or Arrow file: the columns of texts, and one image at a time."""

    def __init__(self, folder: Folder, name: str) -> None:
        is_local = "://" not in folder.url or folder.url.startswith(tuple(f"{p}:" for p in LOCAL))
        path = f"{local_path(folder.url)}/{name}"
        source: Any = pa.memory_map(path) if is_local else pa.BufferReader(folder.read(name))
        self.parquet = pq.ParquetFile(source) if ending_of(name) == "parquet" else None
        # a stream of Arrow's is not copied: its columns lie in the mapped file
        self.table: Any = None if self.parquet else pa.ipc.open_stream(source).read_all()
        self._group: tuple[int, int, Any] = (0, 0, None)  # first row, end, column of images

    @property
    def schema(self) -> pa.Schema:
        found: pa.Schema = self.parquet.schema_arrow if self.parquet else self.table.schema
        return found

    def columns(self, names: Sequence[str]) -> dict[str, Sequence[Any]]:
        table = self.parquet.read(columns=list(names)) if self.parquet else self.table
        return {name: table.column(name).to_pylist() for name in names}

    def cell(self, number: int, column: str) -> Any:
        if self.parquet is None:
            return self.table.column(column)[number].as_py()
        if not self._group[0] <= number < self._group[1]:
            self._group = self._read_group(number, column)
        return self._group[2][number - self._group[0]].as_py()

    def _read_group(self, number: int, column: str) -> tuple[int, int, Any]:
        assert self.parquet is not None
        first = 0
        for group in range(self.parquet.num_row_groups):
            end = first + self.parquet.metadata.row_group(group).num_rows
            if number < end:
                return first, end, self.parquet.read_row_group(group, columns=[column]).column(0)
            first = end
        raise IndexError(number)


def dataset_files(folder: Folder) -> list[str]:
    """The files of a data set in their order; none if the folder holds no data set.

    Raises:
        PackError: it holds several splits.
    """
    if SPLITS in folder.others:
        names = sorted({name.partition("/")[0] for name in folder.others if "/" in name})
        raise PackError(
            f"{folder.url}: holds the splits {', '.join(names)}: name one, such as "
            f"{folder.url}/{names[0] if names else 'train'}"
        )
    if STATE in folder.others:
        try:
            state = json.loads(folder.read(STATE))
            files = [str(one["filename"]) for one in state["_data_files"]]
        except (ValueError, KeyError, TypeError):
            raise PackError(f"{folder.url}/{STATE}: is none that datasets has written") from None
        if lost := [name for name in files if name not in folder.others]:
            raise PackError(f"{folder.url}/{STATE}: names {lost[0]}, which is not there")
        return files
    return [name for name in folder.others if ending_of(name) == "parquet"]


def holds_images(folder: Folder, files: Sequence[str]) -> bool:
    """Whether the first file has a column with the bytes of images."""
    return bool(files) and any(map(_is_image, _opened(folder, files[0]).schema))


def from_dataset(folder: Folder, files: Sequence[str], pack: Pack) -> Found:
    """The rows of all files; their images are read when they are packed.

    Raises:
        PackError: a file cannot be read, or a column that is needed or named is not there.
    """
    first = _opened(folder, files[0])
    table = CaptionTable(f"{folder.url}/{files[0]}", list(first.schema.names), {})
    image = needed(table, "image", pack.image, IMAGE_COLUMNS)
    if not _is_image(first.schema.field(image)):
        raise PackError(
            f"pack.image={image!r}: this column of {table.name} holds no images but "
            f"{first.schema.field(image).type}"
        )
    texts = text_columns(table, pack)
    rows = Rows(folder, image)
    found = Found(f"{folder.url}: {len(files)} files, images in {image}, {texts.in_words()}")
    found.reader = rows
    columns = [_columns(folder, name, texts.names) for name in files]
    values = [] if texts.label is None else [one for part in columns for one in part[texts.label]]
    classes = classes_of(values)
    found.classes = classes.names or _names_of(first.schema, texts.label)
    home = f"{folder.url}#rows"
    for name, part in zip(files, columns, strict=True):
        stat = folder.stats[name]
        for number, row in enumerate(CaptionTable(name, [], part).rows(texts.names)):
            place = rows.name(name, number)
            item = texts.item((home, place, stat), row, classes.numbers)
            if item is None:
                found.left_out.add(NO_CAPTION, place)
            else:
                found.items.append(item)
    return found


def _opened(folder: Folder, name: str) -> _File:
    try:
        return _File(folder, name)
    except (pa.ArrowException, ValueError) as error:
        text = " ".join(str(error).split())
        raise PackError(f"{folder.url}/{name}: cannot be read: {text}") from None


def _columns(folder: Folder, name: str, names: Sequence[str]) -> dict[str, Sequence[Any]]:
    file = _opened(folder, name)
    lacking = [column for column in names if column not in file.schema.names]
    if lacking:
        raise PackError(f"{folder.url}/{name}: has no column {lacking[0]!r}, as the first file has")
    return file.columns(names)


def _is_image(column: pa.Field[Any]) -> bool:
    """Whether a column holds bytes, or datasets' pair of bytes and path."""
    kind = column.type
    if pa.types.is_struct(kind):
        return kind.get_field_index("bytes") >= 0
    return pa.types.is_binary(kind) or pa.types.is_large_binary(kind)


def _names_of(schema: pa.Schema, label: str | None) -> list[str]:
    """The names of a column's classes, where datasets has written them beside the schema."""
    try:
        features = json.loads((schema.metadata or {})[FEATURES])["info"]["features"]
        return [str(name) for name in features[label]["names"]]
    except (KeyError, ValueError, TypeError):
        return []
