"""Finds a model's files in a folder or on the hub, and reads its JSON files."""

from __future__ import annotations

import importlib.resources
import json
import os
import re
import shlex
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.config.model import Model
from pipeline.models.file_hashes import SHA256, FileHashes, recall_node, remember_node

if TYPE_CHECKING:
    from pipeline.models.hub_snapshot import Snapshot

BUNDLED_OVERRIDE = "OVERPAINT_BUNDLED_MODEL"  # a folder to use for "bundled", in development
CHECKPOINT = ".safetensors"
PICKLES = (".bin", ".ckpt", ".pt", ".pth", ".pkl")
POINTER = b"version https://git-lfs.github.com/spec/"  # what Git leaves in place of a file in LFS
POINTER_BYTES = 1024  # pointers are smaller
HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+")


@dataclass(frozen=True)
class ModelFiles:
    """The files of a model: those of a local folder, or of a commit on the hub, fetched or not.

    Attributes:
        option: the configuration key or command-line option that names the model.
        path: its value.
        folder: where the files are, or will be.
        sizes: in bytes, by path relative to the folder.
        snapshot: of a hub model; None for a local folder.
    """

    option: str
    path: str
    folder: Path
    sizes: Mapping[str, int]
    snapshot: Snapshot | None = None

    @property
    def commit(self) -> str | None:
        """Of a hub model; None for a local folder."""
        return self.snapshot.commit if self.snapshot is not None else None

    @property
    def is_remote(self) -> bool:
        """Whether the files are those of a commit on the hub."""
        return self.snapshot is not None

    def names_in(self, component: str) -> list[str]:
        """The names of the files directly in a subfolder; "" is the model's folder itself."""
        prefix = f"{component}/" if component else ""
        rests = (name[len(prefix) :] for name in self.sizes if name.startswith(prefix))
        return sorted(rest for rest in rests if "/" not in rest)

    def json(self, name: str) -> Mapping[str, Any]:
        """Reads a JSON object; downloads this one file of a hub model if it is not cached.

        Raises:
            FileNotFoundError: the hub does not give it.
            ValueError: the file is missing or not a JSON object.
        """
        if self.snapshot is not None and name in self.sizes:
            self.snapshot.fetch([name])
        return read_json(self.folder / name, self.option)

    def fetch(self, names: Collection[str]) -> None:
        """Downloads files of a hub model if they are not cached, and checks their content.

        Raises:
            FileNotFoundError: the hub does not give one, or it is damaged.
        """
        if self.snapshot is not None:
            self.snapshot.fetch_checked(names)

    def error(self, reason: str) -> ValueError:
        """The error for a model that cannot be used: key, value and reason in one line."""
        return ValueError(f"{self.option}={self.path!r}: {reason}")


def locate_model(model: Model) -> ModelFiles:
    """Finds a model's files; of a hub model only the listing is downloaded.

    Args:
        model: the configuration's section.

    Raises:
        FileNotFoundError: there is no such folder, and no such model on the hub.
        ValueError: the path is a file.
    """
    if model.path == "bundled":
        override = os.environ.get(BUNDLED_OVERRIDE)
        folder = Path(override or str(importlib.resources.files("pipeline.demo") / "model"))
        if not folder.is_dir():
            hint = f"{BUNDLED_OVERRIDE}={override}" if override else "this installation lacks it"
            raise FileNotFoundError(f"model.path='bundled': {hint}: no folder {folder}")
        return files_of_folder("model.path", model.path, folder)
    folder = Path(model.path).expanduser()
    if folder.is_dir():
        return files_of_folder("model.path", model.path, folder)
    if folder.exists():
        reason = "a file; allowed is a folder in diffusers' format or a hub id"
        if folder.suffix == CHECKPOINT:
            reason += f"; {to_convert(model.path)}"
        raise model_error(model.path, reason)
    if not HUB_ID.fullmatch(model.path):
        raise FileNotFoundError(
            f"model.path={model.path!r}: no such folder; allowed are 'bundled', a folder in "
            "diffusers' format, or a hub id such as 'owner/name'"
        )
    return files_on_hub("model.path", model.path, model.revision)


def to_convert(path: str) -> str:
    """What to do with a checkpoint in one file."""
    return (
        "of a checkpoint in one file `overpaint convert` makes such a folder: "
        f"overpaint convert {shlex.quote(path)} FOLDER --base ID"
    )


def files_of_folder(option: str, path: str, folder: Path) -> ModelFiles:
    """The files of a local folder and of its subfolders, one level deep."""
    paths = (found for pattern in ("*", "*/*") for found in folder.glob(pattern))
    sizes = {p.relative_to(folder).as_posix(): p.stat().st_size for p in paths if p.is_file()}
    return ModelFiles(option, path, folder, sizes)


def files_on_hub(option: str, path: str, revision: str | None) -> ModelFiles:
    """The files of a commit on the hub, of which nothing but the listing is downloaded.

    Raises:
        FileNotFoundError: see ``find_snapshot``.
    """
    from pipeline.models.hub import find_snapshot  # imported here: local models do not need it

    snapshot = find_snapshot(option, path, revision)
    sizes = {name: file.size for name, file in snapshot.files.items()}
    return ModelFiles(option, path, snapshot.folder, sizes, snapshot)


def revision_of(
    files: ModelFiles,
    names: Iterable[str],
    wanted: str | None,
    hashes: FileHashes | None,
    *,
    hash_files: bool,
) -> str:
    """The commit of a hub model, or the hash of local files.

    Args:
        files: the model's.
        names: the files that are loaded.
        wanted: the configured revision. The driver puts the hash of a local folder there, so that
            a worker on another machine, or later, refuses a folder that is not the same.
        hashes: what is known of local files; None: what this machine remembers.
        hash_files: False leaves the revision of local files empty, unless one is wanted.

    Raises:
        ValueError: the files are not those of the wanted revision.
    """
    if files.commit is not None:
        return files.commit
    pinned = SHA256.fullmatch(wanted or "") is not None
    if not hash_files and not pinned:
        return ""
    known = hashes if hashes is not None else FileHashes.from_json(recall_node())
    found = known.of_files([(name, files.folder / name) for name in sorted(names)])
    if hashes is None:
        remember_node(known)
    if pinned and found != wanted:
        raise files.error(
            f"its files have the hash {found}, and {files.option.removesuffix('.path')}.revision "
            f"asks for {wanted}: the folder was changed, or is another one on this machine"
        )
    return found


def read_json(path: Path, option: str = "model.path") -> Mapping[str, Any]:
    """Reads a JSON object from a model's folder.

    Raises:
        ValueError: the file is missing or not a JSON object.
    """
    try:
        if is_pointer(path):
            raise ValueError(f"{option}: {pointer_reason(path)}")
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise ValueError(f"{option}: {path}: {error}") from None
    if not isinstance(value, dict):
        raise ValueError(f"{option}: {path}: not a JSON object")
    return value


def is_pointer(path: Path) -> bool:
    """Whether a file is what Git leaves where the content in LFS was not fetched."""
    if path.stat().st_size >= POINTER_BYTES:
        return False
    with path.open("rb") as stream:
        return stream.read(len(POINTER)) == POINTER


def pointer_reason(path: Path) -> str:
    """What to say about a pointer."""
    return (
        f"{path} is a pointer of Git LFS, not the file; run `git lfs pull` in the clone that "
        "holds it"
    )


def model_error(model_path: str, reason: str) -> ValueError:
    """The error for a model that cannot be used: key, value and reason in one line."""
    return ValueError(f"model.path={model_path!r}: {reason}")
