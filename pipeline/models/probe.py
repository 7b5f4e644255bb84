"""What a model is, found out without torch and without loading a weight: cheap enough for start-up.

Every error is one line that names the key, the value and what is allowed.
"""

from __future__ import annotations

import hashlib
import importlib.resources
import json
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.words.config import Model

BUNDLED_OVERRIDE = "OVERPAINT_BUNDLED_MODEL"  # a folder that stands for "bundled", in development
FAMILIES = {  # pipeline class in model_index.json -> family
    "StableDiffusionPipeline": "stable-diffusion",
    "StableDiffusionImg2ImgPipeline": "stable-diffusion",
    "StableDiffusionDiffEditPipeline": "stable-diffusion",
}
COMPONENTS = {"stable-diffusion": ("unet", "vae", "text_encoder", "tokenizer", "scheduler")}
WITH_WEIGHTS = ("unet", "vae", "text_encoder")
PREDICTION_TYPES = ("epsilon", "v_prediction", "sample")
PICKLES = (".bin", ".ckpt", ".pt", ".pth", ".pkl")
HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+")
HASH_CHUNK_BYTES = 8 << 20


@dataclass(frozen=True)
class ModelInfo:
    """What is known of a model before its weights are loaded.

    Attributes:
        folder: where its files lie.
        revision: the hub's commit, or sha256 of the local folder's files.
        family: of networks that are adapted alike.
        prediction_type: what the network was trained to predict.
        native_size: pixels a side of the pictures it was trained on.
        latent_scale: pixels a side of one latent cell.
        latent_channels: C.
    """

    folder: Path
    revision: str
    family: str
    prediction_type: str
    native_size: int
    latent_scale: int
    latent_channels: int

    def size_for(self, model: Model) -> int:
        """Pixels a side of the pictures to edit: ``model.size``, or the model's own."""
        return self.native_size if model.size is None else model.size


def probe_model(model: Model, *, hash_files: bool = True) -> ModelInfo:
    """Finds a model and checks that it can be used.

    Args:
        model: the configuration's section. A hub id is resolved to a commit, and its files are
            downloaded where they are not cached.
        hash_files: without it the revision of a local folder stays empty; an actor need not read
            gigabytes again for a hash that the driver has.

    Raises:
        FileNotFoundError: no such folder, and no such model on the hub.
        ValueError: the folder isn't a model, has pickled weights only, or is of a family or
            prediction type that isn't supported; or ``model.size`` does not suit it.
    """
    folder, commit = locate_model(model)
    family = _family(model.path, folder)
    for component in COMPONENTS[family]:
        if not (folder / component).is_dir():
            raise _error(model.path, f"{folder} has no {component}/; its {family} model needs one")
    for component in WITH_WEIGHTS:
        weights_variant(folder / component, model.path)
    unet, vae, scheduler = (
        read_json(folder / name)
        for name in ("unet/config.json", "vae/config.json", "scheduler/scheduler_config.json")
    )
    latent_channels = int(vae.get("latent_channels", 4))
    if unet.get("in_channels", 4) != latent_channels:
        raise _error(
            model.path,
            f"its network takes {unet['in_channels']} channels where the VAE has "
            f"{latent_channels} (an inpainting model?); allowed are text-to-image models",
        )
    prediction_type = scheduler.get("prediction_type", "epsilon")
    if prediction_type not in PREDICTION_TYPES:
        allowed = ", ".join(PREDICTION_TYPES)
        raise _error(model.path, f"prediction_type={prediction_type!r}; allowed are {allowed}")
    latent_scale = 2 ** (len(vae.get("block_out_channels", [0])) - 1)
    if model.size is not None and model.size % latent_scale:
        raise ValueError(
            f"model.size={model.size}: for this model allowed are multiples of {latent_scale}"
        )
    if commit is None and hash_files:
        revision = folder_sha256(folder, COMPONENTS[family])
    else:
        revision = commit or ""
    return ModelInfo(
        folder=folder,
        revision=revision,
        family=family,
        prediction_type=prediction_type,
        native_size=int(unet.get("sample_size") or 64) * latent_scale,
        latent_scale=latent_scale,
        latent_channels=latent_channels,
    )


def locate_model(model: Model) -> tuple[Path, str | None]:
    """The folder of a model's files, and the commit if it comes from the hub."""
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
        raise _error(model.path, "a file; allowed is a folder in diffusers' format or a hub id")
    if not HUB_ID.fullmatch(model.path):
        raise FileNotFoundError(
            f"model.path={model.path!r}: no such folder; allowed are 'bundled', a folder in "
            "diffusers' format, or a hub id such as 'owner/name'"
        )
    return _from_hub(model)


def weights_variant(folder: Path, model_path: str) -> str | None:
    """Which weights a component's folder holds: None for the plain ones, else e.g. "fp16".

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
    raise _error(model_path, f"{folder.name}/ {found}; allowed are safetensors weights")


def folder_sha256(folder: Path, components: tuple[str, ...]) -> str:
    """sha256 over names and bytes of the files that make the model, read in pieces.

    A model card or a picture beside them does not count.
    """
    files = [folder / "model_index.json"]
    for component in components:
        files += (path for path in (folder / component).rglob("*") if path.is_file())
    total = hashlib.sha256()
    for path in sorted(files, key=lambda path: path.relative_to(folder).as_posix()):
        digest = hashlib.sha256()
        with path.open("rb") as stream:
            while chunk := stream.read(HASH_CHUNK_BYTES):
                digest.update(chunk)
        total.update(f"{path.relative_to(folder).as_posix()}\0{digest.hexdigest()}\n".encode())
    return total.hexdigest()


def read_json(path: Path) -> Mapping[str, Any]:
    """A JSON object from a model's folder.

    Raises:
        ValueError: it is absent, or no JSON object.
    """
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise ValueError(f"model.path: {path}: {error}") from None
    if not isinstance(value, dict):
        raise ValueError(f"model.path: {path}: not a JSON object")
    return value


def _family(model_path: str, folder: Path) -> str:
    if not (folder / "model_index.json").is_file():
        pickles = sorted(path.name for path in folder.iterdir() if path.suffix in PICKLES)
        found = f" (but {pickles[0]})" if pickles else ""
        raise _error(
            model_path,
            f"{folder} has no model_index.json{found}; allowed is a folder in diffusers' format",
        )
    name = read_json(folder / "model_index.json").get("_class_name")
    if name not in FAMILIES:
        raise _error(model_path, f"pipeline class {name}; allowed are {', '.join(FAMILIES)}")
    return FAMILIES[name]


def _from_hub(model: Model) -> tuple[Path, str]:
    """Downloads what is needed of a hub model, pinned to the commit its revision stands for."""
    from huggingface_hub import snapshot_download  # here: a local model needs no hub client
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    patterns = ["model_index.json"]
    for component in COMPONENTS["stable-diffusion"]:
        patterns += [f"{component}/{kind}" for kind in ("*.json", "*.txt", "*.safetensors")]
    try:
        folder = snapshot_download(
            model.path,
            revision=model.revision,
            allow_patterns=patterns,
            ignore_patterns=["*.fp16.*", "*non_ema*"],
        )
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError) as error:
        reason = str(error).strip().splitlines()[0]
        raise FileNotFoundError(
            f"model.path={model.path!r}, model.revision={model.revision!r}: no such folder, and "
            f"the hub says: {reason}"
        ) from None
    return Path(folder), Path(folder).name  # the snapshot's folder is named by its commit


def _error(model_path: str, reason: str) -> ValueError:
    return ValueError(f"model.path={model_path!r}: {reason}")
