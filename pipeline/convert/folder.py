"""Writes a model's folder of a checkpoint in one file: whole, or not at all.

A checkpoint holds the weights alone. How large its networks are, how texts become tokens and what
the noise schedule is comes from the base.
"""

from __future__ import annotations

import json
import os
import shutil
import zlib
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import diffusers
import torch
from diffusers.utils.logging import disable_progress_bar as hide_bars_of_diffusers
from transformers.utils.logging import disable_progress_bar as hide_bars_of_transformers

from pipeline.config.model import Model
from pipeline.convert.checkpoint import ConversionError
from pipeline.convert.networks import classes_of, network_of
from pipeline.convert.plan import Conversion
from pipeline.models.file_hashes import FileHashes
from pipeline.models.loaded_files import weights_of
from pipeline.models.model_files import ModelFiles
from pipeline.models.probe import probe_model
from pipeline.models.weight_files import check_files, choose_tokenizer
from pipeline.models.weights import load_network

RECORD = "conversion.json"  # where a folder's weights come from


def check_target(target: Path) -> None:
    """Refuses a folder that has something in it.

    Raises:
        ConversionError: names it.
    """
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise ConversionError(f"{str(target)!r} exists; allowed is a new or an empty folder")


def convert(conversion: Conversion, target: Path, tell: Callable[[str], None]) -> None:
    """Writes the folder beside its place, reads back what is in it, and moves it there.

    Args:
        conversion: what to do.
        target: a new or an empty folder.
        tell: is given a line for each part.

    Raises:
        ConversionError: the checkpoint's tensors are not those of the base's networks.
        ValueError: the folder is no model that can be loaded, e.g. a weight is not finite.
        OSError, SafetensorError: it cannot be written; nothing of it is left.
    """
    hide_bars_of_diffusers()
    hide_bars_of_transformers()
    target = target.absolute()
    partial = target.with_name(f".{target.name}.{os.getpid()}.partial")
    try:
        partial.mkdir(parents=True)
        _write_networks(conversion, partial, tell)
        if not conversion.checkpoint.is_vae:
            _write_rest(conversion, partial)
            probe_model(Model(path=str(partial)), hash_files=False)
        _write_json(partial / RECORD, _record(conversion))
        _flush(partial)
        check_target(target)
        partial.rename(target)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _write_networks(conversion: Conversion, folder: Path, tell: Callable[[str], None]) -> None:
    base = conversion.base
    classes = classes_of(conversion.family)
    for part in conversion.converted:
        base.fetch([f"{part}/config.json"])
        tell(f"{part}: {_write_network(conversion, part, classes[part], folder)}")
    for part in conversion.copied:
        chosen = weights_of(base, (part,), Model(path=base.path))[part]
        _copy(base, [f"{part}/config.json", *chosen.files], folder)
        tell(f"{part}: the base's")


def _write_network(conversion: Conversion, part: str, kind: Any, folder: Path) -> str:
    """Writes a part, loads it as an actor would and compares every bit; returns what it is.

    It is never twice in memory.
    """
    checkpoint, base = conversion.checkpoint, conversion.base.folder
    network = network_of(checkpoint, part, kind, base)
    network.save_pretrained(folder / part, safe_serialization=True)
    config = f"{part}/config.json"
    shutil.copyfile(base / config, folder / config)  # as it is, not as it was parsed
    dtype, written = network.dtype, _sums(network)
    del network
    key = repr(str(checkpoint.path))
    found = _sums(load_network(kind, folder / part, key, torch_dtype=dtype))
    if found != written:
        wrong = sorted(name for name, _ in written.items() ^ found.items())
        raise OSError(f"{part}/: {wrong[0]} was not written as it is")
    return f"{len(written)} tensors of the checkpoint, {str(dtype).removeprefix('torch.')}"


def _sums(network: Any) -> dict[str, int]:
    """A checksum of each tensor's bytes."""
    return {
        name: zlib.crc32(tensor.contiguous().view(-1).view(torch.uint8).numpy())
        for name, tensor in network.state_dict().items()
    }


def _write_rest(conversion: Conversion, folder: Path) -> None:
    """The index, the schedule and the tokenizers."""
    base, family = conversion.base, conversion.family
    for text in family.texts:
        tokenizer = text.folders[1]
        _copy(base, choose_tokenizer(base, tokenizer, text.vocabularies), folder)
    written = (*family.components, "scheduler")
    index = {  # what is never loaded here, such as a safety checker, is not promised either
        name: [None, None] if isinstance(value, list) and name not in written else value
        for name, value in conversion.index.items()
    }
    # Models that are distilled to few steps are recognised by their name.
    index["_name_or_path"] = conversion.checkpoint.path.stem
    _write_json(folder / "model_index.json", index)
    _write_json(folder / "scheduler/scheduler_config.json", conversion.scheduler)


def _copy(base: ModelFiles, names: Iterable[str], folder: Path) -> None:
    names = tuple(names)
    base.fetch(names)
    check_files(base, names)
    for name in names:
        (folder / name).parent.mkdir(exist_ok=True)
        shutil.copyfile(base.folder / name, folder / name)


def _record(conversion: Conversion) -> Mapping[str, Any]:
    path, base = conversion.checkpoint.path, conversion.base
    return {
        "checkpoint": path.name,
        "checkpoint_sha256": FileHashes().sha256(path),
        "base": base.path,
        "base_commit": base.commit,
        "from_checkpoint": conversion.converted,
        "from_base": conversion.copied,
        "diffusers": diffusers.__version__,
    }


def _write_json(path: Path, tree: Mapping[str, Any]) -> None:
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(tree, indent=2) + "\n", encoding="utf-8")


def _flush(folder: Path) -> None:
    """Waits until the files are on disk: a folder that has its name is whole, after a crash too."""
    for path in folder.rglob("*"):
        if path.is_file():
            with path.open("rb") as file:
                os.fsync(file.fileno())
