"""Finds and checks the weights of the scorers at start-up, without torch.

Every error is one line that names the key, the value and what is allowed.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path

from pipeline.config.scores import Dino, Lpips, Nsfw, Scores, Weights
from pipeline.models.file_hashes import FileHashes
from pipeline.models.lpips_layers import identifying_shapes
from pipeline.models.model_files import (
    HUB_ID,
    PICKLES,
    ModelFiles,
    files_of_folder,
    files_on_hub,
    revision_of,
)
from pipeline.models.weight_files import (
    TEXT_STEM,
    check_files,
    choose_tokenizer,
    choose_weights,
    tensor_shapes,
)

CONFIG, PROCESSOR, TOKENIZER = "config.json", "preprocessor_config.json", "tokenizer"
# What a scorer needs besides safetensors. One that needs a config is a folder of transformers.
NEEDED: dict[str, tuple[str, ...]] = {
    "clip": (CONFIG, PROCESSOR, TOKENIZER),
    "lpips": (),
    "dino": (CONFIG,),
    "dinov2": (CONFIG, PROCESSOR),
    "aesthetic": (),
    "nsfw": (CONFIG, PROCESSOR),
}
MODEL_TYPES = {"clip": "clip", "dino": "vit", "dinov2": "dinov2"}


@dataclass(frozen=True)
class ScorerFiles:
    """The files of one scorer.

    Attributes:
        files: of its folder or commit.
        loaded: those that are read, relative to the folder.
        revision: the hub's commit, or sha256 of the local files that are loaded.
        variant: of the weights, for ``from_pretrained``.
    """

    files: ModelFiles
    loaded: tuple[str, ...]
    revision: str
    variant: str | None = None

    @property
    def folder(self) -> Path:
        return self.files.folder

    @property
    def commit(self) -> str | None:
        """Of a hub model; None for a local one."""
        return self.files.commit

    @property
    def tensors(self) -> tuple[str, ...]:
        """The safetensors among the loaded files."""
        return tuple(name for name in self.loaded if name.endswith(".safetensors"))

    @property
    def weights(self) -> tuple[Path, ...]:
        """The paths of the safetensors."""
        return tuple(self.folder / name for name in self.tensors)

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """The shapes of all tensors, read from the headers."""
        shapes: dict[str, tuple[int, ...]] = {}
        for name in self.tensors:
            shapes |= tensor_shapes(self.files, name)
        return shapes


def probe_scores(
    scores: Scores,
    *,
    hash_files: bool = True,
    hashes: FileHashes | None = None,
    fetch: bool = False,
) -> dict[str, ScorerFiles]:
    """Finds the weights of every configured scorer.

    Args:
        scores: the configuration's section. Hub ids are resolved to a commit.
        hash_files: False leaves the revision of local files empty, unless one is configured.
        hashes: what is known of local files; None: what this machine remembers.
        fetch: also download what is loaded of hub models, after all checks.

    Raises:
        FileNotFoundError: there is no such file or folder, and no such model on the hub.
        ValueError: there are no safetensors, or the model is of another kind, or lacks the
            configured layer or label, or a file is truncated or a pointer of LFS.
    """
    found = {}
    for name, weights in scores.chosen.items():
        key = f"scores.{name}.path"
        found[name] = locate(
            key, weights, NEEDED[name], scores.dtype, hash_files=hash_files, hashes=hashes
        )
        _check(name, weights, found[name])
    if "aesthetic" in found:
        _check_width(scores, found)
    if fetch:
        for files in found.values():
            fetch_scorer(files)
    return found


def fetch_scorer(files: ScorerFiles) -> None:
    """Downloads what is loaded of a hub model and is not cached; checks all of it.

    Raises:
        FileNotFoundError, ValueError: see ``probe_scores``.
    """
    files.files.fetch(files.loaded)
    check_files(files.files, files.loaded)


def linear_layers(shapes: Mapping[str, tuple[int, ...]]) -> list[str]:
    """The names of a head's linear layers in order, without ".weight"."""
    names = [
        name.removesuffix(".weight")
        for name, shape in shapes.items()
        if name.endswith("weight") and len(shape) == 2
    ]
    return sorted((name if name != "weight" else "" for name in names), key=_number)


def locate(
    option: str,
    weights: Weights,
    needed: Collection[str],
    dtype: str = "float32",
    *,
    hash_files: bool = True,
    hashes: FileHashes | None = None,
) -> ScorerFiles:
    """Finds the files of one network, without downloading weights.

    Args:
        option: the configuration key or command-line option to name in messages.
        weights: a file, a folder or a hub id.
        needed: what the folder must hold besides safetensors, see ``NEEDED``.
        dtype: to load the weights in; decides between their variants.
        hash_files: False leaves the revision of local files empty, unless one is configured.
        hashes: what is known of local files; None: what this machine remembers.

    Raises:
        FileNotFoundError: there is no such file or folder, and no such model on the hub.
        ValueError: there are no safetensors, or a file is missing, truncated or a pointer of LFS.
    """
    files = _found(option, weights, needed)
    variant = None
    if CONFIG in needed:
        texts = [name for name in needed if name != TOKENIZER]
        for name in texts:
            if name not in files.sizes:
                raise files.error(f"{files.folder} has no {name}")
        chosen = choose_weights(files, "", dtype, TEXT_STEM)
        loaded, variant = [*texts, *chosen.files], chosen.variant
        if TOKENIZER in needed:
            loaded += choose_tokenizer(files, "")
    else:
        loaded = [name for name in files.names_in("") if name.endswith(".safetensors")]
        if not loaded:
            pickles = [name for name in files.names_in("") if name.endswith(PICKLES)]
            lacking = f"has pickled weights only ({pickles[0]})" if pickles else "has no weights"
            raise files.error(f"{files.folder} {lacking}; allowed are safetensors weights")
    if not files.is_remote:
        check_files(files, loaded)
    revision = revision_of(files, loaded, weights.revision, hashes, hash_files=hash_files)
    return ScorerFiles(files, tuple(loaded), revision, variant)


def _found(option: str, weights: Weights, needed: Collection[str]) -> ModelFiles:
    """The files of a folder or a hub id, or the one file that is named."""
    path = Path(weights.path).expanduser()
    if path.is_file():
        if path.suffix != ".safetensors" or needed:
            allowed = "a folder" if needed else "a .safetensors file, a folder"
            reason = f"a file of the wrong kind; allowed is {allowed} or a hub id"
            raise _error(option, weights, reason)
        return ModelFiles(option, weights.path, path.parent, {path.name: path.stat().st_size})
    if path.is_dir():
        return files_of_folder(option, weights.path, path)
    if HUB_ID.fullmatch(weights.path):
        return files_on_hub(option, weights.path, weights.revision)
    raise FileNotFoundError(
        f"{option}={weights.path!r}: no such file or folder; allowed are "
        "safetensors weights or a hub id such as 'owner/name'"
    )


def _check(name: str, weights: Weights, files: ScorerFiles) -> None:
    if isinstance(weights, Lpips):
        shapes = files.shapes()
        for tensor, wanted_shape in identifying_shapes(weights.net).items():
            if shapes.get(tensor) != wanted_shape:
                found = shapes.get(tensor, "missing")
                reason = f"{tensor} is {found}; {weights.net} needs {wanted_shape}"
                raise _error(f"scores.{name}.path", weights, reason)
    config = files.files.json(CONFIG) if NEEDED[name] else {}
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
    shapes = found["aesthetic"].shapes()
    layers = linear_layers(shapes)
    width = found["clip"].files.json(CONFIG).get("projection_dim", 512)
    shape = shapes[f"{layers[0]}.weight".lstrip(".")] if layers else ()
    if not layers or shape[1] != width:
        raise _error(
            "scores.aesthetic.path",
            scores.aesthetic,
            f"its first linear layer is {shape or 'missing'}; scores.clip gives {width} features",
        )


def _number(layer: str) -> int:
    return int("".join(character for character in layer if character.isdigit()) or 0)


def _error(option: str, weights: Weights, reason: str) -> ValueError:
    return ValueError(f"{option}={weights.path!r}: {reason}")
