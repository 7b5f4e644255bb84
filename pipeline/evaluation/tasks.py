"""A benchmark's tasks in one form, and as shards of the input contract."""

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

from pipeline.storage.archive import tar_writer
from pipeline.storage.store import Store

TRUTH = "truth.png"  # member: the annotated region, 255 = may change; passed through to the output
SHARDS = "in/"  # the folder of the tars
SHARD_TASKS = 64


class BenchmarkError(ValueError):
    """The benchmark's folder is not what the protocol says; names the file and what is wrong."""


@dataclass(frozen=True)
class Task:
    """One edit that a benchmark asks for.

    Attributes:
        key: without dots, unique in the benchmark.
        image: the file's bytes.
        suffix: of the file, e.g. "jpg".
        caption: what is there.
        edit_text: what is wanted.
        group: the class of tasks that the benchmark's tables have a row for.
        truth: (H, W) bool in the image's pixels, True where the edit belongs; None: unknown.
        facts: what else the benchmark says of it, JSON-able.
        members: further ones by suffix, passed through to the output.
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
    """Writes tars of ``SHARD_TASKS`` tasks each; one that is there with the same bytes stays.

    So a run that goes on finds its inputs unchanged. Tars beyond the last one are removed.

    Returns:
        Their names below ``home``, which begin with ``SHARDS``.
    """
    there = home.list(SHARDS)
    names = []
    for first in range(0, len(tasks), SHARD_TASKS):
        name = f"{SHARDS}{first // SHARD_TASKS:05d}.tar"
        sink = io.BytesIO()
        with tar_writer(sink) as writer:
            for task in tasks[first : first + SHARD_TASKS]:
                writer.write({"__key__": task.key, **_members(task)})
        data = sink.getvalue()
        if there.get(name) != len(data) or home.get(name) != data:
            home.put(name, data)
        names.append(name)
    for name in there.keys() - set(names):
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


def image_of(path: Path, said_by: str) -> tuple[bytes, str]:
    """The bytes and the suffix of an image that a benchmark's file names.

    Raises:
        BenchmarkError: it is not there.
    """
    suffix = path.suffix.lstrip(".").lower()
    try:
        return path.read_bytes(), {"jpeg": "jpg"}.get(suffix, suffix)
    except OSError as error:
        raise BenchmarkError(f"{said_by} names {path}, which cannot be read: {error}") from error


def read_json(path: Path) -> Any:
    """A benchmark's JSON file.

    Raises:
        BenchmarkError: it is not there, or no JSON.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise BenchmarkError(f"{path}: {error}") from error


def field_of(entry: Any, name: str, where: str) -> Any:
    """One field of an entry.

    Raises:
        BenchmarkError: the entry has no such field.
    """
    if not isinstance(entry, dict) or name not in entry:
        raise BenchmarkError(f"{where} has no {name!r}")
    return entry[name]


def first_tasks(tasks: Iterator[Task], limit: int) -> list[Task]:
    """All tasks, or the first ``limit`` of them; 0 stands for all."""
    taken: list[Task] = []
    for task in tasks:
        if limit and len(taken) == limit:
            break
        taken.append(task)
    return taken
