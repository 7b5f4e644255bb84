"""Reads a table of captions: CSV, TSV, JSON lines or Parquet, as rows of named values."""

from __future__ import annotations

import csv as python_csv
import io
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import pyarrow as pa
from pyarrow import csv, parquet

from pipeline.config.spelling import did_you_mean
from pipeline.pack.found import PackError

DELIMITERS = {"csv": ",", "tsv": "\t"}
JSON_LINES = ("jsonl", "ndjson")
TABLES = (*DELIMITERS, *JSON_LINES, "parquet")
NOT_UTF8 = re.compile("utf-?8", re.IGNORECASE)  # in an error of Python or of pyarrow
CSV_BLOCK_BYTES = 16 << 20  # a row must fit in


def ending_of(name: str) -> str:
    """The suffix of a file's name, in lower case, without its dot."""
    return name.rpartition("/")[2].rpartition(".")[2].lower() if "." in name else ""


@dataclass
class CaptionTable:
    """A table in memory."""

    name: str  # for messages
    names: list[str]  # of its columns
    columns: Mapping[str, Sequence[Any]]  # all of one length
    damaged: list[str] = field(default_factory=list)  # a name for each row that cannot be read

    def column(self, key: str, wanted: str | None, usual: Sequence[str]) -> str | None:
        """The column that a key names, or the first usual one; None if there is none of these.

        Raises:
            PackError: the key names a column that is not there; says which are.
        """
        if wanted is None:
            return next((name for name in usual if name in self.names), None)
        if wanted not in self.names:
            raise PackError(
                f"pack.{key}={wanted!r}: {self.name} has no such column; it has "
                f"{self.shown_names}{did_you_mean(wanted, self.names)}"
            )
        return wanted

    @property
    def shown_names(self) -> str:
        return ", ".join(repr(name) for name in self.names) or "none"

    def rows(self, names: Sequence[str]) -> Iterator[dict[str, Any]]:
        """The values of some columns by name, row by row."""
        for values in zip(*(self.columns[name] for name in names), strict=True):
            yield dict(zip(names, values, strict=True))


def read_table(name: str, data: bytes) -> CaptionTable:
    """A table from a file's bytes; every value of CSV and TSV is a text, as it is written.

    Raises:
        PackError: it is no such table, or a column's name stands twice in it.
    """
    kind = ending_of(name)
    try:
        if kind in DELIMITERS:
            table = _read_csv(name, data, DELIMITERS[kind])
        elif kind in JSON_LINES:
            table = _read_json_lines(name, data)
        else:
            found = parquet.read_table(pa.BufferReader(data))
            table = _from_arrow(name, found)
    except PackError:
        raise
    except (pa.ArrowException, python_csv.Error, OSError, ValueError) as error:
        text = " ".join(str(error).split())
        remedy = "; save it as UTF-8" if NOT_UTF8.search(text) else ""
        raise PackError(f"{name}: cannot be read as {kind.upper()}: {text}{remedy}") from None
    twice = [column for column in table.names if table.names.count(column) > 1]
    if twice:
        raise PackError(f"{name}: the column {twice[0]!r} stands twice in it; rename one")
    return table


def _read_csv(name: str, data: bytes, delimiter: str) -> CaptionTable:
    """The columns as texts: pyarrow would make numbers and dates of captions otherwise."""
    damaged: list[str] = []

    def note(row: csv.InvalidRow) -> Literal["skip"]:
        damaged.append(f"row {row.number}" if row.number is not None else "a row")
        return "skip"

    names = _header(data, delimiter)
    table = csv.read_csv(
        io.BytesIO(data),
        # one thread, so that rows have numbers
        read_options=csv.ReadOptions(use_threads=False, block_size=CSV_BLOCK_BYTES),
        parse_options=csv.ParseOptions(
            delimiter=delimiter, newlines_in_values=True, invalid_row_handler=note
        ),
        convert_options=csv.ConvertOptions(column_types=dict.fromkeys(names, pa.string())),
    )
    found = _from_arrow(name, table)
    found.damaged = damaged
    return found


def _header(data: bytes, delimiter: str) -> list[str]:
    """The names of the columns, from the first row."""
    text = io.TextIOWrapper(io.BytesIO(data), encoding="utf-8-sig", newline="")
    return next(python_csv.reader(text, delimiter=delimiter), [])


def _read_json_lines(name: str, data: bytes) -> CaptionTable:
    """Python's reader, since pyarrow's makes times of texts and stops at the first bad line."""
    rows: list[dict[str, Any]] = []
    damaged: list[str] = []
    for number, line in enumerate(data.removeprefix(b"\xef\xbb\xbf").splitlines(), start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (ValueError, RecursionError):
            row = None
        if isinstance(row, dict):
            rows.append(row)
        else:
            damaged.append(f"line {number}")
    names = list(dict.fromkeys(key for row in rows for key in row))
    columns = {column: [row.get(column) for row in rows] for column in names}
    return CaptionTable(name, names, columns, damaged)


def _from_arrow(name: str, table: pa.Table) -> CaptionTable:
    names = list(table.column_names)
    columns = {column: table.column(place).to_pylist() for place, column in enumerate(names)}
    return CaptionTable(name, names, columns)
