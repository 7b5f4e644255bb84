"""Semantic image translation on ImageNet (Couairon et al., FlexIT, arXiv:2203.04705).

    DATA/queries.csv                          path, source, source_id, target, target_id, is_test
    DATA/<path>, or DATA/val/<path>           the images of ImageNet's validation set

The texts are the class names in the file. Half of the 2,184 queries are for choosing settings
("dev"), half for reporting ("test").
"""

from __future__ import annotations

import csv
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

from pipeline.evaluation.tasks import BenchmarkError, Task, read_image

QUERIES = "queries.csv"
NAMES = ("path", "source", "source_id", "target", "target_id", "is_test")
# From the README of FlexIT's repository; DiffEdit's row is from its paper.
PUBLISHED: dict[str, dict[str, float]] = {
    "copy of the input": {"lpips_e2": 0.0, "accuracy_e2": 0.4, "csfid": 106.0},
    "retrieved image": {"lpips_e2": 72.4, "accuracy_e2": 90.6, "csfid": 27.2},
    "FlexIT, 5 networks, 160 steps": {"lpips_e2": 25.5, "accuracy_e2": 67.0, "csfid": 52.0},
    "DiffEdit, r = 0.8": {"lpips_e2": 30.5, "csfid": 23.6},
}
COLUMNS = ("lpips_e2", "accuracy_e2", "csfid", "unedited_e2", "edit_rms")
NOTES = (
    "Published: LPIPS of AlexNet, accuracy of DeiT-B distilled at 384 pixels among the targets, "
    "CSFID to ImageNet's training set; at 256 pixels a side.",
)

Split = Literal["dev", "test", "all"]


def read_tasks(data: Path, split: Split = "test") -> Iterator[Task]:
    """The queries of a split, in file order; the key is the query's number.

    Raises:
        BenchmarkError: a file is missing, or a row does not have the expected format.
    """
    path, rows = data / QUERIES, _queries(data)
    for line, row in enumerate(rows, start=2):
        where = f"{path}: line {line}"
        if row["is_test"] not in ("True", "False"):
            raise BenchmarkError(f"{where}: is_test is {row['is_test']!r}, not True or False")
        if split != "all" and (row["is_test"] == "True") != (split == "test"):
            continue
        image, suffix = read_image(_found(data, row["path"], where), where)
        yield Task(
            key=str(row.get("") or line - 2),
            image=image,
            suffix=suffix,
            caption=row["source"],
            edit_text=row["target"],
            group=row["target"],
            facts={"source_id": row["source_id"], "target_id": row["target_id"]},
        )


def target_classes(data: Path) -> list[int]:
    """The sorted numbers of the 273 classes that are a target of any query of either half.

    Raises:
        BenchmarkError: the file is missing or does not have the expected format.
    """
    try:
        return sorted({int(row["target_id"]) for row in _queries(data)})
    except ValueError as error:
        raise BenchmarkError(f"{data / QUERIES}: target_id must be a number: {error}") from error


def _queries(data: Path) -> list[dict[str, str]]:
    path = data / QUERIES
    try:
        with path.open(encoding="utf-8", newline="") as file:
            rows = list(csv.DictReader(file))
    except OSError as error:
        raise BenchmarkError(f"{path}: {error}") from error
    missing = [name for name in NAMES if not rows or name not in rows[0]]
    if missing:
        raise BenchmarkError(f"{path}: has no column {', '.join(missing)}")
    return rows


def _found(data: Path, path: str, where: str) -> Path:
    if ".." in Path(path).parts or Path(path).is_absolute():
        raise BenchmarkError(f"{where}: the path {path!r} leads out of the benchmark's folder")
    return data / path if (data / path).is_file() else data / "val" / path
