"""Finds and checks the weights of the scorers at start-up, without torch.

Every error is one line that names the key, the value and what is allowed.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from pipeline.config.scores import Dino, Lpips, Nsfw, Scores, Weights
from pipeline.models.lpips_layers import identifying_shapes
from pipeline.models.model_files import COMMIT, HUB_ID, PICKLES, files_sha256

# Files that a scorer needs besides safetensors: one of each inner tuple.
NEEDED: dict[str, tuple[tuple[str, ...], ...]] = {
    "clip": (("config.json",), ("preprocessor_config.json",), ("tokenizer.json", "vocab.json")),
    "lpips": (),
    "dino": (("config.json",),),
    "dinov2": (("config.json",), ("preprocessor_config.json",)),
    "aesthetic": (),
    "nsfw": (("config.json",), ("preprocessor_config.json",)),
}
MODEL_TYPES = {"clip": "clip", "dino": "vit", "dinov2": "dinov2"}
PATTERNS = ("*.json", "*.txt", "*.safetensors")


@dataclass(frozen=True)
class ScorerFiles:
    """The files of one scorer."""

    folder: Path
    weights: tuple[Path, ...]  # safetensors
    revision: str  # the hub's commit, or sha256 of the local files
    commit: str | None = None  # of a hub model


def probe_scores(scores: Scores, *, hash_files: bool = True) -> dict[str, ScorerFiles]:
    """Finds the weights of every configured scorer.

    Args:
        scores: the configuration's section. Hub ids are resolved to a commit, and files that are
            not cached are downloaded.
        hash_files: False leaves the revision of local files empty.

    Raises:
        FileNotFoundError: there is no such file or folder, and no such model on the hub.
        ValueError: there are no safetensors, or the model is of another kind, or lacks the
            configured layer or label.
    """
    found = {}
    for name, weights in scores.chosen.items():
        key = f"scores.{name}.path"
        found[name] = locate(key, weights, NEEDED[name], hash_files=hash_files)
        _check(name, weights, found[name])
    if "aesthetic" in found:
        _check_width(scores, found)
    return found


def tensor_shapes(files: ScorerFiles) -> dict[str, tuple[int, ...]]:
    """The shapes of all tensors in a scorer's files, read from the headers."""
    shapes: dict[str, tuple[int, ...]] = {}
    for path in files.weights:
        with safe_open(path, framework="numpy") as tensors:
            shapes |= {n: tuple(tensors.get_slice(n).get_shape()) for n in tensors.keys()}  # noqa: SIM118
    return shapes


def linear_layers(shapes: Mapping[str, tuple[int, ...]]) -> list[str]:
    """The names of a head's linear layers in order, without ".weight"."""
    names = [
        name.removesuffix(".weight")
        for name, shape in shapes.items()
        if name.endswith("weight") and len(shape) == 2
    ]
    return sorted((name if name != "weight" else "" for name in names), key=_number)


def locate(
    option: str, weights: Weights, needed: Sequence[Sequence[str]], *, hash_files: bool = True
) -> ScorerFiles:
    """Finds the files of one network.

    Args:
        option: the configuration key or command-line option to name in messages.
        weights: a file, a folder or a hub id.
        needed: files besides safetensors that the folder must hold: one of each inner sequence.
        hash_files: False leaves the revision of local files empty.

    Raises:
        FileNotFoundError: there is no such file or folder, and no such model on the hub.
        ValueError: there are no safetensors, or a needed file is missing.
    """
    path = Path(weights.path).expanduser()
    commit = None
    if path.is_file():
        if path.suffix != ".safetensors" or needed:
            allowed = "a folder" if needed else "a .safetensors file, a folder"
            reason = f"a file of the wrong kind; allowed is {allowed} or a hub id"
            raise _error(option, weights, reason)
        files = [path]
        folder = path.parent
    else:
        if path.is_dir():
            folder = path
        elif HUB_ID.fullmatch(weights.path):
            folder, commit = _from_hub(option, weights)
        else:
            raise FileNotFoundError(
                f"{option}={weights.path!r}: no such file or folder; allowed are "
                "safetensors weights or a hub id such as 'owner/name'"
            )
        files = sorted(file for pattern in PATTERNS for file in folder.glob(pattern))
    tensors = tuple(file for file in files if file.suffix == ".safetensors")
    if not tensors:
        pickles = sorted(file.name for file in folder.iterdir() if file.suffix in PICKLES)
        found = f"has pickled weights only ({pickles[0]})" if pickles else "has no weights"
        raise _error(option, weights, f"{found}; allowed are safetensors weights")
    for alternatives in needed:
        if not any((folder / file).is_file() for file in alternatives):
            raise _error(option, weights, f"{folder} has no {' or '.join(alternatives)}")
    revision = commit or (files_sha256((file.name, file) for file in files) if hash_files else "")
    return ScorerFiles(folder, tensors, revision, commit)


def _check(name: str, weights: Weights, files: ScorerFiles) -> None:
    try:
        shapes = tensor_shapes(files)
    except (SafetensorError, OSError) as error:
        raise _error(f"scores.{name}.path", weights, f"not safetensors: {error}") from None
    if isinstance(weights, Lpips):
        for tensor, wanted_shape in identifying_shapes(weights.net).items():
            if shapes.get(tensor) != wanted_shape:
                found = shapes.get(tensor, "missing")
                reason = f"{tensor} is {found}; {weights.net} needs {wanted_shape}"
                raise _error(f"scores.{name}.path", weights, reason)
    config = _config(name, weights, files) if NEEDED[name] else {}
    wanted = MODEL_TYPES.get(name)
    if wanted is not None and config.get("model_type") != wanted:
        kind = config.get("model_type")
        raise _error(
            f"scores.{name}.path", weights, f"a model of type {kind!r}; allowed is {wanted!r}"
        )
    if isinstance(weights, Dino) and weights.layer >= int(config.get("num_hidden_layers", 12)):
        most = int(config.get("num_hidden_layers", 12)) - 1
        raise ValueError(f"scores.dino.layer={weights.layer}: this network has layers 0 to {most}")
    labels = list(config.get("id2label", {}).values())
    if isinstance(weights, Nsfw) and weights.label not in labels:
        raise ValueError(f"scores.nsfw.label={weights.label!r}: this network has labels {labels}")


def _check_width(scores: Scores, found: dict[str, ScorerFiles]) -> None:
    assert scores.aesthetic is not None
    assert scores.clip is not None
    shapes = tensor_shapes(found["aesthetic"])
    layers = linear_layers(shapes)
    width = _config("clip", scores.clip, found["clip"]).get("projection_dim", 512)
    shape = shapes[f"{layers[0]}.weight".lstrip(".")] if layers else ()
    if not layers or shape[1] != width:
        raise _error(
            "scores.aesthetic.path",
            scores.aesthetic,
            f"its first linear layer is {shape or 'missing'}; scores.clip gives {width} features",
        )


def _config(name: str, weights: Weights, files: ScorerFiles) -> dict[str, Any]:
    try:
        config = json.loads((files.folder / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise _error(f"scores.{name}.path", weights, f"config.json: {error}") from None
    if not isinstance(config, dict):
        raise _error(f"scores.{name}.path", weights, "config.json is not a JSON object")
    return config


def _from_hub(option: str, weights: Weights) -> tuple[Path, str]:
    """Downloads the needed files, pinned to the commit of the revision."""
    from huggingface_hub import snapshot_download  # imported here: local weights do not need it
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    download = partial(snapshot_download, weights.path, revision=weights.revision)
    download = partial(download, allow_patterns=list(PATTERNS))
    try:
        try:  # a commit that the driver found needs no call to the hub where it is cached
            is_commit = COMMIT.fullmatch(weights.revision or "") is not None
            folder = download(local_files_only=is_commit)
            if is_commit and not any(Path(folder).glob("*.safetensors")):
                folder = download()
        except LocalEntryNotFoundError:
            folder = download()
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError) as error:
        reason = str(error).strip().splitlines()[0]
        raise FileNotFoundError(
            f"{option}={weights.path!r}, revision {weights.revision!r}: no such file or folder, "
            f"and the hub says: {reason}"
        ) from None
    return Path(folder), Path(folder).name  # the snapshot's folder is named by its commit


def _number(layer: str) -> int:
    return int("".join(character for character in layer if character.isdigit()) or 0)


def _error(option: str, weights: Weights, reason: str) -> ValueError:
    return ValueError(f"{option}={weights.path!r}: {reason}")
