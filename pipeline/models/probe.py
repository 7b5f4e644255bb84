"""Finds out what a model is, without torch and without loading weights, so start-up stays fast.

Every error is one line that names the key, the value and what is allowed.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from pipeline.config.buckets import Sizes, step_of
from pipeline.config.config import Model
from pipeline.diffusion.flow_schedule import FlowSchedule
from pipeline.diffusion.schedule import NoiseSchedule, Schedule
from pipeline.models.distilled import Distilled, distilled_kind
from pipeline.models.file_hashes import FileHashes
from pipeline.models.loaded_files import files_of, weights_of
from pipeline.models.model_files import (
    PICKLES,
    ModelFiles,
    locate_model,
    model_error,
    read_json,
    revision_of,
)
from pipeline.models.network_checks import (
    NO_LIMIT,
    check_classes,
    check_kinds,
    check_network,
    check_size,
    prediction_type,
    sample_size,
    sides_of,
)
from pipeline.models.weight_files import check_files

FAMILIES = {  # pipeline class in model_index.json -> family
    "StableDiffusionPipeline": "stable-diffusion",
    "StableDiffusionImg2ImgPipeline": "stable-diffusion",
    "StableDiffusionDiffEditPipeline": "stable-diffusion",
    "StableDiffusionXLPipeline": "stable-diffusion-xl",
    "StableDiffusionXLImg2ImgPipeline": "stable-diffusion-xl",
    "StableDiffusion3Pipeline": "stable-diffusion-3",
    "StableDiffusion3Img2ImgPipeline": "stable-diffusion-3",
}
NETWORKS = {  # family -> folder and class of the network
    "stable-diffusion": ("unet", "UNet2DConditionModel"),
    "stable-diffusion-xl": ("unet", "UNet2DConditionModel"),
    "stable-diffusion-3": ("transformer", "SD3Transformer2DModel"),
}
NUM_TEXT_ENCODERS = {"stable-diffusion": 1, "stable-diffusion-xl": 2, "stable-diffusion-3": 3}
OPTIONAL = {"stable-diffusion-3": ("text_encoder_3", "tokenizer_3")}  # T5: may be left out


@dataclass(frozen=True)
class ModelInfo:
    """What is known about a model before its weights are loaded.

    Attributes:
        folder: the folder of its files.
        revision: the hub's commit, or sha256 of the local folder's files.
        family: a key of ``NETWORKS``; models of a family use the same code.
        prediction_type: what the network was trained to predict; "flow" is a velocity.
        native_size: side of the training images in pixels.
        latent_scale: side of one latent cell in pixels.
        latent_channels: C.
        components: its subfolders.
        commit: of a hub model; None for a local folder.
        files: all files that are loaded, relative to the folder; no others are read.
        variants: of the weights, by component; None for files without one in their names.
        distilled: set if the model was made for a few steps.
        multiple: of pixels; the sides of an image are multiples of it.
        halvings: how often the network halves its grid.
        longest: the longest side that an image may have, in pixels.
    """

    folder: Path
    revision: str
    family: str
    prediction_type: str
    native_size: int
    latent_scale: int
    latent_channels: int
    components: tuple[str, ...] = ()
    commit: str | None = None
    files: tuple[str, ...] = ()
    variants: Mapping[str, str | None] = field(default_factory=dict)
    distilled: Distilled | None = None
    multiple: int = 1
    halvings: int = 0
    longest: int = NO_LIMIT

    @property
    def variant(self) -> str:
        """The setting ``model.variant`` that chooses the same weights again, with any cache."""
        found = {variant for variant in self.variants.values() if variant is not None}
        return "auto" if len(found) > 1 else next(iter(found), "plain")

    def size_for(self, model: Model) -> int:
        """Side of the square image to edit in pixels: ``model.size``, or the model's own."""
        return self.native_size if model.size is None else model.size

    def sizes_for(self, model: Model) -> Sizes:
        """The sizes of the images to edit, by ``model.size`` and ``model.buckets``."""
        buckets = model.buckets if isinstance(model.buckets, str) else tuple(model.buckets)
        side = self.size_for(model)
        step = step_of(side, self.multiple, self.halvings)
        return Sizes(side, step, self.longest, buckets)


def components_of(family: str) -> tuple[str, ...]:
    """The subfolders of a model of this family, optional ones included."""
    texts = [
        f"{kind}{suffix}"
        for suffix in ("", "_2", "_3")[: NUM_TEXT_ENCODERS[family]]
        for kind in ("text_encoder", "tokenizer")
    ]
    return (NETWORKS[family][0], "vae", *texts, "scheduler")


def probe_model(
    model: Model,
    *,
    hash_files: bool = True,
    hashes: FileHashes | None = None,
    fetch: bool = False,
) -> ModelInfo:
    """Finds a model and checks that it can be used. The first look is at the JSON files.

    Args:
        model: the configuration's section. A hub id is resolved to a commit.
        hash_files: False leaves the revision of a local folder empty, unless the section gives the
            hash that it must have.
        hashes: what is known of local files; None: what this machine remembers.
        fetch: also download what is loaded of a hub model, after all checks, and compare it with
            the hub's sizes and hashes. The driver needs no weights.

    Raises:
        FileNotFoundError: there is no such folder, and no such model on the hub.
        ValueError: the folder is not a model, or a file that is loaded is missing, pickled,
            truncated or a pointer of Git LFS, or its family, network or schedule is not
            supported, or ``model.size`` or ``model.buckets`` does not suit it.
    """
    files = locate_model(model)
    index = _index(files)
    family = FAMILIES[index["_class_name"]]
    components = _components(files, family, index)
    network_folder, network_class = NETWORKS[family]
    network = check_kinds(files, f"{network_folder}/config.json")
    vae = check_kinds(files, "vae/config.json")
    scheduler = check_kinds(files, "scheduler/scheduler_config.json")
    check_classes(model.path, {network_class: network, "AutoencoderKL": vae})
    check_network(model.path, family, network, vae)
    latent_scale = 2 ** (len(vae.get("block_out_channels", [0])) - 1)
    multiple, longest = sides_of(network, latent_scale)
    check_size(model, multiple, longest)
    weights = weights_of(files, components, model)
    loaded = files_of(files, components, weights)
    info = ModelInfo(
        folder=files.folder,
        revision="",
        family=family,
        prediction_type=prediction_type(model.path, family, scheduler),
        native_size=sample_size(model.path, network) * latent_scale,
        latent_scale=latent_scale,
        latent_channels=int(vae.get("latent_channels", 4)),
        multiple=multiple,
        halvings=len(network.get("block_out_channels", [0])) - 1,
        longest=longest,
        components=components,
        commit=files.commit,
        files=loaded,
        variants={name: chosen.variant for name, chosen in weights.items()},
        distilled=distilled_kind([model.path, *_names(index, network)], scheduler),
    )
    try:
        load_schedule(info, info.size_for(model))
    except ValueError as error:
        raise model_error(model.path, str(error)) from None
    if fetch:
        files.fetch(loaded)
    if fetch or not files.is_remote:
        check_files(files, loaded)
    revision = revision_of(files, loaded, model.revision, hashes, hash_files=hash_files)
    return replace(info, revision=revision)


def load_schedule(info: ModelInfo, size: int) -> NoiseSchedule:
    """The model's noise schedule.

    Args:
        info: of a probed model.
        size: image side in pixels; some flow-matching models shift their schedule with it
            (``for_grid`` gives that of another size).

    Raises:
        ValueError: the scheduler's config uses an unsupported option.
    """
    config = read_json(info.folder / "scheduler/scheduler_config.json")
    if info.prediction_type != "flow":
        return Schedule.from_config(config)
    network = read_json(info.folder / NETWORKS[info.family][0] / "config.json")
    cells = size // info.latent_scale
    return FlowSchedule.from_config(config, (cells, cells), int(network.get("patch_size", 1)))


def _index(files: ModelFiles) -> Mapping[str, Any]:
    """Reads ``model_index.json`` and checks that its pipeline is supported."""
    if "model_index.json" not in files.sizes:
        pickles = [name for name in files.names_in("") if name.endswith(PICKLES)]
        found = f" (but {pickles[0]})" if pickles else ""
        raise files.error(
            f"{files.folder} has no model_index.json{found}; allowed is a folder in diffusers' "
            "format"
        )
    index = files.json("model_index.json")
    name = str(index.get("_class_name"))
    if name not in FAMILIES:
        raise files.error(f"pipeline class {name}; allowed are {', '.join(FAMILIES)}")
    if index.get("requires_aesthetics_score"):
        raise files.error("an SDXL refiner; allowed are base models")
    return index


def _names(*configs: Mapping[str, Any]) -> list[str]:
    """The names under which a model's configs say that it was saved."""
    return [str(config["_name_or_path"]) for config in configs if config.get("_name_or_path")]


def _components(files: ModelFiles, family: str, index: Mapping[str, Any]) -> tuple[str, ...]:
    """The model's subfolders, checked to be there."""
    left_out = {
        name for name in OPTIONAL.get(family, ()) if index.get(name) in (None, [], [None, None])
    }
    components = tuple(name for name in components_of(family) if name not in left_out)
    for name in components:
        if not files.names_in(name):
            raise files.error(f"{files.folder} has no {name}/; its {family} model needs one")
    return components
