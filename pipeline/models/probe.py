"""Finds out what a model is, without torch and without loading weights, so start-up stays fast.

Every error is one line that names the key, the value and what is allowed.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.config.config import Model
from pipeline.diffusion.flow_schedule import FlowSchedule
from pipeline.diffusion.schedule import NoiseSchedule, Schedule
from pipeline.models.model_files import (
    PICKLES,
    folder_sha256,
    locate_model,
    model_error,
    read_json,
    weights_variant,
)

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
PREDICTION_TYPES = ("epsilon", "v_prediction", "sample")  # of a UNet
FLOW_SCHEDULERS = ("FlowMatchEulerDiscreteScheduler", "FlowMatchHeunDiscreteScheduler")
ADDED_CONDITIONS = {"stable-diffusion": None, "stable-diffusion-xl": "text_time"}  # of a UNet


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

    def size_for(self, model: Model) -> int:
        """Side of the images to edit in pixels: ``model.size``, or the model's own."""
        return self.native_size if model.size is None else model.size


def components_of(family: str) -> tuple[str, ...]:
    """The subfolders of a model of this family, optional ones included."""
    texts = [
        f"{kind}{suffix}"
        for suffix in ("", "_2", "_3")[: NUM_TEXT_ENCODERS[family]]
        for kind in ("text_encoder", "tokenizer")
    ]
    return (NETWORKS[family][0], "vae", *texts, "scheduler")


def probe_model(model: Model, *, hash_files: bool = True) -> ModelInfo:
    """Finds a model and checks that it can be used.

    Args:
        model: the configuration's section. A hub id is resolved to a commit, and files that are
            not cached are downloaded.
        hash_files: False leaves the revision of a local folder empty, so that actors do not read
            gigabytes for a hash that the driver already has.

    Raises:
        FileNotFoundError: there is no such folder, and no such model on the hub.
        ValueError: the folder is not a model, or has pickled weights only, or its family, network
            or schedule is not supported, or ``model.size`` does not suit it.
    """
    every = {component for family in NETWORKS for component in components_of(family)}
    folder, commit = locate_model(model, every)
    index = _index(model.path, folder)
    family = FAMILIES[index["_class_name"]]
    components = _components(model.path, folder, family, index)
    network_folder, network_class = NETWORKS[family]
    network = read_json(folder / network_folder / "config.json")
    vae = read_json(folder / "vae/config.json")
    scheduler = read_json(folder / "scheduler/scheduler_config.json")
    _check_classes(model.path, {network_class: network, "AutoencoderKL": vae})
    _check_network(model.path, family, network, vae)
    latent_scale = 2 ** (len(vae.get("block_out_channels", [0])) - 1)
    _check_size(model, network, latent_scale)
    info = ModelInfo(
        folder=folder,
        revision=commit or (folder_sha256(folder, components) if hash_files else ""),
        family=family,
        prediction_type=_prediction_type(model.path, family, scheduler),
        native_size=int(network.get("sample_size") or 64) * latent_scale,
        latent_scale=latent_scale,
        latent_channels=int(vae.get("latent_channels", 4)),
        components=components,
        commit=commit,
    )
    try:
        load_schedule(info, info.size_for(model))
    except ValueError as error:
        raise model_error(model.path, str(error)) from None
    return info


def load_schedule(info: ModelInfo, size: int) -> NoiseSchedule:
    """The model's noise schedule.

    Args:
        info: of a probed model.
        size: image side in pixels; some flow-matching models shift their schedule with it.

    Raises:
        ValueError: the scheduler's config uses an unsupported option.
    """
    config = read_json(info.folder / "scheduler/scheduler_config.json")
    if info.prediction_type != "flow":
        return Schedule.from_config(config)
    network = read_json(info.folder / NETWORKS[info.family][0] / "config.json")
    tokens_a_side = size // (info.latent_scale * int(network.get("patch_size", 1)))
    return FlowSchedule.from_config(config, tokens_a_side**2)


def _index(model_path: str, folder: Path) -> Mapping[str, Any]:
    """Reads ``model_index.json`` and checks that its pipeline is supported."""
    if not (folder / "model_index.json").is_file():
        pickles = sorted(path.name for path in folder.iterdir() if path.suffix in PICKLES)
        found = f" (but {pickles[0]})" if pickles else ""
        raise model_error(
            model_path,
            f"{folder} has no model_index.json{found}; allowed is a folder in diffusers' format",
        )
    index = read_json(folder / "model_index.json")
    name = index.get("_class_name")
    if name not in FAMILIES:
        raise model_error(model_path, f"pipeline class {name}; allowed are {', '.join(FAMILIES)}")
    if index.get("requires_aesthetics_score"):
        raise model_error(model_path, "an SDXL refiner; allowed are base models")
    return index


def _components(
    model_path: str, folder: Path, family: str, index: Mapping[str, Any]
) -> tuple[str, ...]:
    """The model's subfolders, checked to be complete."""
    left_out = {name for name in OPTIONAL.get(family, ()) if not (index.get(name) or [None])[0]}
    components = tuple(name for name in components_of(family) if name not in left_out)
    for name in components:
        if not (folder / name).is_dir():
            raise model_error(model_path, f"{folder} has no {name}/; its {family} model needs one")
    for name in components:
        if not name.startswith(("tokenizer", "scheduler")):
            weights_variant(folder / name, model_path)
            if read_json(folder / name / "config.json").get("quantization_config"):
                raise model_error(model_path, f"{name}/ is quantized; allowed are plain weights")
    return components


def _check_classes(model_path: str, wanted: Mapping[str, Mapping[str, Any]]) -> None:
    for name, config in wanted.items():
        if config.get("_class_name", name) != name:
            raise model_error(
                model_path, f"network class {config['_class_name']}; allowed is {name}"
            )


def _check_network(
    model_path: str, family: str, network: Mapping[str, Any], vae: Mapping[str, Any]
) -> None:
    """Refuses networks that need inputs which are not supported here."""
    latent_channels = int(vae.get("latent_channels", 4))
    if network.get("in_channels", latent_channels) != latent_channels:
        raise model_error(
            model_path,
            f"its network takes {network['in_channels']} channels where the VAE has "
            f"{latent_channels} (an inpainting model?); allowed are text-to-image models",
        )
    if vae.get("latents_mean") or vae.get("latents_std"):
        raise model_error(model_path, "its VAE has latents_mean or latents_std: not supported")
    if network.get("time_cond_proj_dim"):
        raise model_error(
            model_path,
            f"time_cond_proj_dim={network['time_cond_proj_dim']}: its guidance is distilled into "
            "the network; allowed are models with classifier-free guidance",
        )
    added, wanted = network.get("addition_embed_type"), ADDED_CONDITIONS.get(family)
    if added != wanted:
        raise model_error(model_path, f"addition_embed_type={added!r}; allowed is {wanted!r}")


def _check_size(model: Model, network: Mapping[str, Any], latent_scale: int) -> None:
    """The image must divide into latent cells, and these into the network's patches."""
    multiple = latent_scale * int(network.get("patch_size", 1))
    largest = multiple * int(network.get("pos_embed_max_size") or 2**16)
    if model.size is not None and (model.size % multiple or model.size > largest):
        bound = f" up to {largest}" if network.get("pos_embed_max_size") else ""
        raise ValueError(
            f"model.size={model.size}: for this model allowed are multiples of {multiple}{bound}"
        )


def _prediction_type(model_path: str, family: str, scheduler: Mapping[str, Any]) -> str:
    name = str(scheduler.get("_class_name", ""))
    if family == "stable-diffusion-3":
        if name not in FLOW_SCHEDULERS:
            raise model_error(
                model_path, f"scheduler class {name}; allowed are {', '.join(FLOW_SCHEDULERS)}"
            )
        return "flow"
    if name.startswith(("FlowMatch", "EDM")):
        raise model_error(
            model_path, f"scheduler class {name}; allowed are those of a schedule of betas"
        )
    prediction_type = str(scheduler.get("prediction_type", "epsilon"))
    if prediction_type not in PREDICTION_TYPES:
        allowed = ", ".join(PREDICTION_TYPES)
        raise model_error(model_path, f"prediction_type={prediction_type!r}; allowed are {allowed}")
    return prediction_type
