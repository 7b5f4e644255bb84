"""Which files of a model are loaded, chosen from a listing, and whether each is what it says.

Nothing else is opened, hashed or downloaded: other formats, precisions and averages may lie beside.
"""

from __future__ import annotations

import json
import re
import struct
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from pipeline.models.family_facts import CLIP_VOCABULARY
from pipeline.models.model_files import PICKLES, ModelFiles, is_pointer, pointer_reason

LARGEST_HEADER_BYTES = 100_000_000  # the format's own limit
NETWORK_STEM, TEXT_STEM = "diffusion_pytorch_model", "model"  # of diffusers and transformers
# What is preferred for each dtype; None is the file without a variant in its name.
VARIANTS: dict[str, tuple[str | None, ...]] = {
    "auto": (None,),  # nobody has decided yet
    "float32": (None,),
    "bfloat16": ("bf16", "fp16", None),
    "float16": ("fp16", None),
}
AVERAGES = ("non_ema", "ema")  # variants that are other weights, not the same ones rounded
# What a tokenizer reads. One of each inner tuple is its vocabulary.
TOKENIZER_FILES = (
    *("tokenizer.json", "vocab.json", "merges.txt", "spiece.model"),
    *("tokenizer_config.json", "special_tokens_map.json", "added_tokens.json"),
    "chat_template.jinja",
)


class StoredTensor(NamedTuple):
    """What the header of a safetensors file says of a tensor; the dtype by its name there."""

    dtype: str
    shape: tuple[int, ...]


@dataclass(frozen=True)
class ChosenWeights:
    """The weights of one component.

    Attributes:
        variant: for ``from_pretrained``; None for files without one in their names.
        files: relative to the model's folder: safetensors, and the index of shards if there is one.
        others: all variants that there are.
    """

    variant: str | None
    files: tuple[str, ...]
    others: tuple[str, ...] = ()


def choose_weights(
    files: ModelFiles,
    component: str,
    dtype: str,
    stem: str = NETWORK_STEM,
    variant: str = "auto",
) -> ChosenWeights:
    """Chooses the safetensors of a component: of a half dtype the rounded ones where they exist.

    Args:
        files: the model's.
        component: its subfolder, or "" for the model's folder itself.
        dtype: the configured one.
        stem: how the names of the weights begin.
        variant: the configured one: auto, plain, or a name.

    Raises:
        ValueError: there are no safetensors, or the index names a file that is missing or shorter
            than it says; the message names the file.
    """
    names = files.names_in(component)
    single = re.compile(rf"{stem}(?:\.(\w+))?\.safetensors")
    index = re.compile(rf"{stem}\.safetensors\.index(?:\.(\w+))?\.json")
    # Where both exist, diffusers takes the shards and transformers the single file.
    order = (single, index) if stem == NETWORK_STEM else (index, single)
    found: dict[str | None, str] = {}
    for pattern in order:
        found |= {match[1]: match[0] for name in names if (match := pattern.fullmatch(name))}
    others = sorted((v for v in found if v is not None), key=lambda v: (v in AVERAGES, v))
    asked: tuple[str | None, ...] = (None if variant == "plain" else variant, None)
    for wanted in (*(VARIANTS[dtype] if variant == "auto" else asked), *others):
        if wanted in found:
            name = found[wanted]
            chosen = (name,) if name.endswith(".safetensors") else _shards(files, component, name)
            paths = tuple(_path(component, name) for name in chosen)
            return ChosenWeights(wanted, paths, tuple(others))
    where = f"{component}/" if component else str(files.folder)
    shards = next((name for name in names if re.fullmatch(rf"{stem}.*\.safetensors", name)), None)
    if shards is not None:
        raise files.error(f"{where} has {shards}, but neither {stem}.safetensors nor its index")
    pickles = sorted(name for name in names if name.endswith(PICKLES))
    lacking = f"has pickled weights only ({pickles[0]})" if pickles else "has no weights"
    raise files.error(f"{where} {lacking}; allowed are safetensors weights")


def _shards(files: ModelFiles, component: str, index: str) -> tuple[str, ...]:
    """The index and the files that it names, compared with the listing."""
    path = _path(component, index)
    tree = files.json(path)
    weight_map = tree.get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise files.error(f"{path} has no weight_map")
    names = sorted({str(name) for name in weight_map.values()})
    for name in names:
        if _path(component, name) not in files.sizes:
            raise files.error(f"{path} names {name}, which is missing")
    listed = sum(files.sizes[_path(component, name)] for name in names)
    metadata = tree.get("metadata")
    total = metadata.get("total_size") if isinstance(metadata, dict) else None
    if isinstance(total, int | float) and files.is_remote and listed < total:
        raise files.error(
            f"{path} says {total:.0f} bytes, and {len(names)} files of {listed} bytes are listed"
        )
    return (index, *names)


def choose_tokenizer(
    files: ModelFiles, component: str, vocabularies: Sequence[Sequence[str]] = CLIP_VOCABULARY
) -> tuple[str, ...]:
    """The files that a tokenizer reads.

    Args:
        files: the model's.
        component: its subfolder, or "" for the model's folder itself.
        vocabularies: the alternatives; all files of one of them must be there.

    Raises:
        ValueError: there is no vocabulary; without one every text is the same to the model.
    """
    names = files.names_in(component)
    if not any(set(needed) <= set(names) for needed in vocabularies):
        allowed = " or ".join(" and ".join(needed) for needed in vocabularies)
        where = f"{component}/" if component else str(files.folder)
        raise files.error(f"{where} has no vocabulary; allowed is {allowed}")
    return tuple(_path(component, name) for name in TOKENIZER_FILES if name in names)


def check_files(files: ModelFiles, names: Collection[str]) -> None:
    """Checks files that are here: none is an LFS pointer, safetensors are whole.

    Reads only the headers of weights.

    Raises:
        ValueError: the message names the file and what to do.
    """
    for name in names:
        path = files.folder / name
        if is_pointer(path):
            raise files.error(pointer_reason(path))
        if name.endswith(".safetensors") and (reason := truncation(path)):
            raise files.error(f"{name} {reason}")
        if name.endswith((".json", ".txt", ".model")) and not path.stat().st_size:
            raise files.error(f"{name} is empty")


def truncation(path: Path) -> str | None:
    """How a safetensors file contradicts its header; None if it does not."""
    size = path.stat().st_size
    try:
        header, begin = _header(path, size)
    except ValueError as error:
        return f"is not safetensors: {error}"
    tensors = [tensor for name, tensor in header.items() if name != "__metadata__"]
    wanted = begin + max((int(tensor["data_offsets"][1]) for tensor in tensors), default=0)
    if size != wanted:
        kind = "is truncated" if size < wanted else "is too long"
        return f"{kind}: {size} bytes, and its header says {wanted}"
    return None


def tensor_shapes(files: ModelFiles, name: str) -> dict[str, tuple[int, ...]]:
    """The shapes of all tensors of a safetensors file, from its header.

    Raises:
        FileNotFoundError: the hub does not give it.
        ValueError: it is not safetensors.
    """
    path = files.folder / name
    if files.snapshot is not None and not path.is_file():
        return files.snapshot.tensor_shapes(name)
    return {name: tensor.shape for name, tensor in tensors_in(path).items()}


def tensors_in(path: Path) -> dict[str, StoredTensor]:
    """The tensors of a local safetensors file by name, from its header.

    Raises:
        ValueError: it is not safetensors.
    """
    header, _ = _header(path, path.stat().st_size)
    return {
        name: StoredTensor(str(tensor["dtype"]), tuple(tensor["shape"]))
        for name, tensor in header.items()
        if name != "__metadata__"
    }


def _header(path: Path, size: int) -> tuple[Mapping[str, Any], int]:
    """The header of a safetensors file, and where its data begin."""
    with path.open("rb") as stream:
        head = stream.read(8)
        length = struct.unpack("<Q", head)[0] if len(head) == 8 else size
        if 8 + length > size or length > LARGEST_HEADER_BYTES:
            raise ValueError(f"no header in {size} bytes")
        try:
            header = json.loads(stream.read(length))
        except ValueError as error:
            raise ValueError(f"its header is not JSON: {error}") from None
    if not isinstance(header, dict):
        raise ValueError("its header is not a JSON object")
    return header, 8 + length


def _path(component: str, name: str) -> str:
    return f"{component}/{name}" if component else name
