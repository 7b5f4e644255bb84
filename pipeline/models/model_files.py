"""Finds a model's files in a folder or on the hub, checks their kind, and hashes them."""

from __future__ import annotations

import hashlib
import importlib.resources
import json
import os
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from pipeline.config.config import Model

BUNDLED_OVERRIDE = "OVERPAINT_BUNDLED_MODEL"  # a folder to use for "bundled", in development
PICKLES = (".bin", ".ckpt", ".pt", ".pth", ".pkl")
HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+")
COMMIT = re.compile(r"[0-9a-f]{40}")
HASH_CHUNK_BYTES = 8 << 20
WANTED = ("*.json", "*.txt", "*.model", "*.safetensors")  # files to download of each component
UNWANTED = ("*.fp16*", "*non_ema*")  # the same weights, rounded or without averaging


def locate_model(model: Model, components: Iterable[str] = ()) -> tuple[Path, str | None]:
    """Finds the folder of a model's files, and the commit if the model is from the hub.

    Args:
        model: the configuration's section.
        components: the folders to download of a hub model; those that it lacks are ignored.

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
        return folder, None
    folder = Path(model.path).expanduser()
    if folder.is_dir():
        return folder, None
    if folder.exists():
        raise model_error(
            model.path, "a file; allowed is a folder in diffusers' format or a hub id"
        )
    if not HUB_ID.fullmatch(model.path):
        raise FileNotFoundError(
            f"model.path={model.path!r}: no such folder; allowed are 'bundled', a folder in "
            "diffusers' format, or a hub id such as 'owner/name'"
        )
    return _from_hub(model, components)


def weights_variant(folder: Path, model_path: str) -> str | None:
    """The variant of the weights in a component's folder: None for plain ones, else e.g. "fp16".

    Raises:
        ValueError: there are no safetensors weights; the message names the pickle, if any.
    """
    names = sorted(file.name for file in folder.iterdir())
    tensors = [name for name in names if name.endswith(".safetensors")]
    plain = re.compile(r"(diffusion_pytorch_model|model)(-\d+-of-\d+)?\.safetensors")
    if any(plain.fullmatch(name) for name in tensors):
        return None
    variant = re.compile(r"(diffusion_pytorch_model|model)\.(\w+)(-\d+-of-\d+)?\.safetensors")
    for name in tensors:
        if match := variant.fullmatch(name):
            return match[2]
    pickles = [name for name in names if name.endswith(PICKLES)]
    found = f"has pickled weights only ({pickles[0]})" if pickles else "has no weights"
    raise model_error(model_path, f"{folder.name}/ {found}; allowed are safetensors weights")


def folder_sha256(folder: Path, components: Iterable[str]) -> str:
    """sha256 over names and bytes of the model's files, read in chunks.

    Other files in the folder, such as a model card or an image, are not included.
    """
    files = [folder / "model_index.json"]
    for component in components:
        files += (path for path in (folder / component).rglob("*") if path.is_file())
    return files_sha256(sorted((path.relative_to(folder).as_posix(), path) for path in files))


def files_sha256(named: Iterable[tuple[str, Path]]) -> str:
    """sha256 over names and bytes of files, in the given order, read in chunks."""
    total = hashlib.sha256()
    for name, path in named:
        digest = hashlib.sha256()
        with path.open("rb") as stream:
            while chunk := stream.read(HASH_CHUNK_BYTES):
                digest.update(chunk)
        total.update(f"{name}\0{digest.hexdigest()}\n".encode())
    return total.hexdigest()


def read_json(path: Path) -> Mapping[str, Any]:
    """Reads a JSON object from a model's folder.

    Raises:
        ValueError: the file is missing or not a JSON object.
    """
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise ValueError(f"model.path: {path}: {error}") from None
    if not isinstance(value, dict):
        raise ValueError(f"model.path: {path}: not a JSON object")
    return value


def model_error(model_path: str, reason: str) -> ValueError:
    """The error for a model that cannot be used: key, value and reason in one line."""
    return ValueError(f"model.path={model_path!r}: {reason}")


def _from_hub(model: Model, components: Iterable[str]) -> tuple[Path, str]:
    """Downloads the needed files of a hub model, pinned to the commit of its revision.

    A commit whose files are cached needs no call to the hub: so a worker, which is given the commit
    that the driver found, neither waits for the hub nor sees a branch that has moved since.
    """
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    patterns = [f"{component}/{kind}" for component in sorted(set(components)) for kind in WANTED]
    try:
        if COMMIT.fullmatch(model.revision or ""):
            try:
                folder = _snapshot(model.path, model.revision, patterns, local_files_only=True)
                if (folder / "model_index.json").is_file() and not incomplete_weights(folder):
                    return folder, folder.name
            except LocalEntryNotFoundError:
                pass  # nothing of this commit is cached
        folder = _snapshot(model.path, model.revision, patterns)
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError) as error:
        reason = str(error).strip().splitlines()[0]
        raise FileNotFoundError(
            f"model.path={model.path!r}, model.revision={model.revision!r}: no such folder, and "
            f"the hub says: {reason}"
        ) from None
    return folder, folder.name  # the snapshot's folder is named by its commit


def _snapshot(
    name: str, revision: str | None, patterns: list[str], *, local_files_only: bool = False
) -> Path:
    """The folder of a commit in the cache, with its files downloaded."""
    from huggingface_hub import snapshot_download  # imported here: local models do not need it

    folder = Path(
        snapshot_download(
            name,
            revision=revision,
            allow_patterns=["model_index.json", *patterns],
            ignore_patterns=list(UNWANTED),
            local_files_only=local_files_only,
        )
    )
    bare = _without_weights(folder)
    if bare and not local_files_only:  # only rounded weights exist, so download those
        snapshot_download(
            name,
            revision=folder.name,
            allow_patterns=[f"{component}/*.safetensors*" for component in bare],
        )
    return folder


def _without_weights(folder: Path) -> list[str]:
    """The components that have a network's configuration but no weights."""
    networks = {path.parent for path in folder.glob("*/config.json")}
    return sorted(path.name for path in networks if not any(path.glob("*.safetensors")))


def incomplete_weights(folder: Path) -> list[str]:
    """What a model's folder lacks: components without weights, and files that an index names."""
    lacking = [f"{name}/*.safetensors" for name in _without_weights(folder)]
    for index in sorted(folder.glob("*/*.safetensors.index.json")):
        files = sorted(set(read_json(index).get("weight_map", {}).values()))
        lacking += [
            f"{index.parent.name}/{file}" for file in files if not (index.parent / file).is_file()
        ]
    return lacking
