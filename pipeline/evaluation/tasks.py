"""A benchmark's tasks in one common form, and their conversion to input shards."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from pipeline.storage.store import Store
from pipeline.storage.tar_write import SampleTar

TRUTH = "truth.png"  # suffix of the annotated region, 255 = may change; passed through
SHARDS = "in/"  # the folder of the tars
SHARD_TASKS = 64


class BenchmarkError(ValueError):
    """The benchmark's folder does not follow its protocol; names the file and what is wrong."""


@dataclass(frozen=True)
class Task:
    """One edit of a benchmark.

    Attributes:
        key: without dots, unique in the benchmark.
        image: the image file's bytes.
        suffix: of the image file, e.g. "jpg".
        caption: describes the image.
        edit_text: describes the wanted result.
        group: the category of the task in the benchmark's tables.
        truth: (H, W) bool in the image's pixels, True in the region to edit; None if not annotated.
        facts: further data of the benchmark, JSON-able.
        members: further files by suffix, passed through to the output.
    """

    key: str
    image: bytes
    suffix: str
    caption: str
    edit_text: str
    group: str = ""
    truth: NDArray[np.bool_] | None = None
    facts: dict[str, Any] = field(default_factory=dict)
    members: dict[str, bytes] = field(default_factory=dict)


def write_shards(tasks: Sequence[Task], home: Store) -> list[str]:
    """Writes tars of ``SHARD_TASKS`` tasks each. Existing tars with equal bytes are not written.

    So a resumed run finds its inputs unchanged. Tars that do not belong to the tasks are removed.

    Returns:
        The tars' names in ``home``, which begin with ``SHARDS``.
    """
    existing = home.list(SHARDS)
    names = []
    for first in range(0, len(tasks), SHARD_TASKS):
        name = f"{SHARDS}{first // SHARD_TASKS:05d}.tar"
        tar = SampleTar()
        for task in tasks[first : first + SHARD_TASKS]:
            tar.add(task.key, _members(task))
        data = tar.getvalue()
        if existing.get(name) != len(data) or home.get(name) != data:
            home.put(name, data)
        names.append(name)
    for name in existing.keys() - set(names):
        home.delete(name)
    return names


def _members(task: Task) -> dict[str, bytes]:
    facts = {"group": task.group, **task.facts}
    members = {
        **task.members,
        task.suffix: task.image,
        "txt": task.caption.encode(),
        "edit.txt": task.edit_text.encode(),
        "json": json.dumps(facts, sort_keys=True, ensure_ascii=False).encode(),
    }
    if task.truth is not None:
        sink = io.BytesIO()
        Image.fromarray(task.truth.astype(np.uint8) * 255).save(sink, "PNG")
        members[TRUTH] = sink.getvalue()
    return members


def read_image(path: Path, where: str) -> tuple[bytes, str]:
    """Reads an image file that a benchmark refers to; returns its bytes and suffix.

    Args:
        path: of the image.
        where: the entry that refers to it, for the message.

    Raises:
        BenchmarkError: the file cannot be read.
    """
    suffix = path.suffix.lstrip(".").lower()
    try:
        return path.read_bytes(), {"jpeg": "jpg"}.get(suffix, suffix)
    except OSError as error:
        raise BenchmarkError(f"{where} names {path}, which cannot be read: {error}") from error


def read_json(path: Path) -> Any:
    """Reads a benchmark's JSON file.

    Raises:
        BenchmarkError: the file cannot be read or is not JSON.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise BenchmarkError(f"{path}: {error}") from error


def field_of(entry: Any, name: str, where: str) -> Any:
    """Returns one field of an entry.

    Raises:
        BenchmarkError: the entry has no such field.
    """
    if not isinstance(entry, dict) or name not in entry:
        raise BenchmarkError(f"{where} has no {name!r}")
    return entry[name]


def first_tasks(tasks: Iterator[Task], limit: int) -> list[Task]:
    """The first ``limit`` tasks; 0 means all."""
    taken: list[Task] = []
    for task in tasks:
        if limit and len(taken) == limit:
            break
        taken.append(task)
    return taken
