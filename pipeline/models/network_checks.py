"""Refuses models whose configs ask for what is not supported. Errors are one line."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pipeline.config.config import Model
from pipeline.models.model_files import ModelFiles, model_error

PREDICTION_TYPES = ("epsilon", "v_prediction", "sample")  # of a UNet
FLOW_SCHEDULERS = ("FlowMatchEulerDiscreteScheduler", "FlowMatchHeunDiscreteScheduler")
NO_LIMIT = 2**16  # multiples a side, for a network that takes any
ADDED_CONDITIONS = {"stable-diffusion": None, "stable-diffusion-xl": "text_time"}  # of a UNet

WHOLE, POSITIVE, LIST = "a whole number of 1 or more", "a number above 0", "a list of numbers"
KINDS = {  # what the values must be that are read here and have no check of their own
    "block_out_channels": LIST,
    "latent_channels": WHOLE,
    "in_channels": WHOLE,
    "patch_size": WHOLE,
    "num_train_timesteps": WHOLE,
    "beta_start": POSITIVE,
    "beta_end": POSITIVE,
    "shift": POSITIVE,
    "steps_offset": "a whole number",
}
OR_NULL = {"pos_embed_max_size": WHOLE, "trained_betas": LIST}


def check_kinds(files: ModelFiles, name: str) -> Mapping[str, Any]:
    """Reads a config and refuses values of a kind that nothing can be computed with.

    Raises:
        ValueError: the message names file, key, value and what is allowed.
    """
    config = files.json(name)
    nullable = {key: kind for key, kind in OR_NULL.items() if config.get(key) is not None}
    for key, kind in (KINDS | nullable).items():
        if key in config and not _is_of(kind, config[key]):
            raise files.error(f"{name}: {key}={config[key]!r}; allowed is {kind}")
    return config


def _is_of(kind: str, value: Any) -> bool:
    if kind == LIST:
        return isinstance(value, list) and len(value) > 0 and all(map(_is_number, value))
    if not _is_number(value) or value < 0:
        return False
    if kind == POSITIVE:
        return bool(value > 0)
    return isinstance(value, int) and (kind != WHOLE or value > 0)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def sample_size(model_path: str, network: Mapping[str, Any]) -> int:
    """Side of the latent that the network was trained on; some configs give height and width."""
    given = network.get("sample_size") or 64
    sides = given if isinstance(given, list) else [given]
    if not all(_is_of(WHOLE, side) for side in sides) or len(set(sides)) > 1:
        raise model_error(model_path, f"sample_size={given!r}; allowed is a square's side")
    return int(sides[0])


def check_classes(model_path: str, wanted: Mapping[str, Mapping[str, Any]]) -> None:
    for name, config in wanted.items():
        if config.get("_class_name", name) != name:
            raise model_error(
                model_path, f"network class {config['_class_name']}; allowed is {name}"
            )


def check_network(
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


def sides_of(network: Mapping[str, Any], latent_scale: int) -> tuple[int, int]:
    """(multiple, longest) of an image's sides in pixels.

    The image must divide into latent cells, and these into the network's patches. A transformer
    with a table of positions has a longest side.
    """
    multiple = latent_scale * int(network.get("patch_size", 1))
    return multiple, multiple * int(network.get("pos_embed_max_size") or NO_LIMIT)


def check_size(model: Model, multiple: int, longest: int) -> None:
    """Refuses sizes with other sides than the model allows.

    Raises:
        ValueError: the message names ``model.size`` or ``model.buckets``, and what is allowed.
    """
    bound = f" up to {longest}" if longest < multiple * NO_LIMIT else ""
    allowed = f"for this model allowed are multiples of {multiple}{bound}"

    def suits(side: int) -> bool:
        return side % multiple == 0 and side <= longest

    if model.size is not None and not suits(model.size):
        raise ValueError(f"model.size={model.size}: {allowed}")
    for size in model.buckets if isinstance(model.buckets, list) else ():
        if not all(map(suits, size)):
            raise ValueError(f"model.buckets: {list(size)}: {allowed}")


def prediction_type(model_path: str, family: str, scheduler: Mapping[str, Any]) -> str:
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
