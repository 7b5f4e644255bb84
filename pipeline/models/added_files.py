"""Finds what the configuration adds to a model: LoRA files, another VAE. No torch."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from pipeline.config.lora import Lora
from pipeline.config.model import Model
from pipeline.models.file_hashes import SHA256, FileHashes, recall_node, remember_node
from pipeline.models.model_files import (
    HUB_ID,
    ModelFiles,
    files_of_folder,
    files_on_hub,
    revision_of,
)
from pipeline.models.weight_files import check_files, choose_weights


@dataclass(frozen=True)
class LoraFile:
    """A LoRA to fuse.

    Attributes:
        path: of the safetensors, where it is or will be.
        weight: factor of its change.
        files: those of its folder or commit.
        revision: what a worker must find: the hub's commit, or the file's sha256.
        sha256: of the file; "" where it is neither asked for nor known.
    """

    path: Path
    weight: float
    files: ModelFiles
    revision: str = ""
    sha256: str = ""

    @property
    def content(self) -> str:
        """What it is, for rows and the fingerprint."""
        return f"lora:{self.sha256 or self.revision}@{self.weight:g}"


@dataclass(frozen=True)
class OtherVae:
    """A VAE in place of the model's.

    Attributes:
        files: all files of its folder or commit.
        component: the subfolder with its files; "" is the folder itself.
        names: the files that are loaded, relative to the folder.
        variant: of the weights, for ``from_pretrained``.
        revision: the hub's commit, or the hash of the files.
    """

    files: ModelFiles
    component: str
    names: tuple[str, ...]
    variant: str | None
    revision: str = ""

    @property
    def folder(self) -> Path:
        return self.files.folder / self.component

    @property
    def config(self) -> str:
        """The name of its config, relative to the folder of ``files``."""
        return f"{self.component}/config.json" if self.component else "config.json"

    @property
    def content(self) -> str:
        """What it is, for rows and the fingerprint."""
        return f"vae:{self.revision}"


def find_loras(
    model: Model, *, hash_files: bool, hashes: FileHashes | None, fetch: bool
) -> tuple[LoraFile, ...]:
    """Finds the file of every entry of ``model.lora``, in their order.

    Args:
        model: the configuration's section. Hub ids are resolved to a commit.
        hash_files: False leaves local files without a hash, unless an entry asks for one.
        hashes: what is known of local files; None: what this machine remembers.
        fetch: also download files of the hub, and compare them with its hashes.

    Raises:
        FileNotFoundError: there is no such file or folder, and no such model on the hub.
        ValueError: it is no safetensors file, or there are several, or it is another file than the
            entry asks for, or it is truncated.
    """
    return tuple(
        _lora(f"model.lora[{number}]", entry, hash_files, hashes, fetch)
        for number, entry in enumerate(model.lora)
    )


def _lora(
    option: str, entry: Lora, hash_files: bool, hashes: FileHashes | None, fetch: bool
) -> LoraFile:
    files, name = _lora_file(option, entry)
    if files.snapshot is not None:
        if fetch:
            files.fetch([name])
        listed = files.snapshot.files[name].sha256 or ""
        return LoraFile(files.folder / name, entry.weight, files, files.snapshot.commit, listed)
    check_files(files, [name])
    pinned = SHA256.fullmatch(entry.revision or "") is not None
    found = ""
    if hash_files or pinned:
        known = hashes if hashes is not None else FileHashes.from_json(recall_node())
        found = known.sha256(files.folder / name)
        if hashes is None:
            remember_node(known)
    if pinned and found != entry.revision:
        raise files.error(f"it has sha256 {found}, and revision asks for {entry.revision}")
    return LoraFile(files.folder / name, entry.weight, files, found, found)


def _lora_file(option: str, entry: Lora) -> tuple[ModelFiles, str]:
    path = Path(entry.path).expanduser()
    if path.is_file():
        size = {path.name: path.stat().st_size}
        files = ModelFiles(f"{option}.path", entry.path, path.parent.absolute(), size)
    else:
        files = folder_or_hub(f"{option}.path", entry.path, entry.revision)
    found = [name for name in files.names_in("") if name.endswith(".safetensors")]
    if entry.file is not None:
        found = [name for name in found if name == entry.file]
    if len(found) == 1:
        return files, found[0]
    if entry.file is not None:
        raise ValueError(f"{option}.file={entry.file!r}: no such safetensors in {entry.path}")
    if found:
        names = ", ".join(found)
        raise files.error(f"holds {len(found)} safetensors; {option}.file says which of {names}")
    raise files.error("holds no safetensors; allowed are LoRAs as safetensors")


def find_vae(
    model: Model, *, hash_files: bool, hashes: FileHashes | None, fetch: bool
) -> OtherVae | None:
    """Finds ``model.vae``; None if there is none. Arguments and errors are as of ``find_loras``."""
    if model.vae is None:
        return None
    files = folder_or_hub("model.vae", model.vae, model.vae_revision)
    component = "vae" if files.names_in("vae") else ""
    chosen = choose_weights(files, component, model.dtype)
    vae = OtherVae(files, component, (), chosen.variant)
    if vae.config not in files.sizes:
        raise files.error(f"{files.folder} has no {vae.config}; allowed is a VAE's folder")
    names = tuple(sorted((vae.config, *chosen.files)))
    if fetch:
        files.fetch(names)
    if fetch or not files.is_remote:
        check_files(files, names)
    revision = revision_of(files, names, model.vae_revision, hashes, hash_files=hash_files)
    return OtherVae(files, component, names, chosen.variant, revision)


def folder_or_hub(option: str, path: str, revision: str | None) -> ModelFiles:
    """The files of a local folder, or of a commit on the hub.

    Raises:
        FileNotFoundError: there is no such folder, and no such model on the hub.
    """
    folder = Path(path).expanduser()
    if folder.is_dir():
        return files_of_folder(option, path, folder.absolute())
    if folder.exists() or not HUB_ID.fullmatch(path):
        raise FileNotFoundError(
            f"{option}={path!r}: no such folder; allowed are a folder, or a hub id such as "
            "'owner/name'"
        )
    return files_on_hub(option, path, revision)
