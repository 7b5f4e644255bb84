"""Checks of a model's configs that are the same for every family. Errors are one line."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from pipeline.config.model import Model
from pipeline.models.family_facts import Grid, UnsupportedModelError
from pipeline.models.model_files import ModelFiles

WHOLE, POSITIVE, LIST = "a whole number of 1 or more", "a number above 0", "a list of numbers"
FLAGS = "a list of true and false"
NUMBER, DEVIATIONS = "a number", "a list of numbers above 0"
SHIFT = "a number from 0 to 20"  # its exponential is a factor, for any image's size
KINDS = {  # what the values must be that are read here and have no check of their own
    "block_out_channels": LIST,
    "encoder_block_out_channels": LIST,
    "temperal_downsample": FLAGS,
    "z_dim": WHOLE,
    "latent_channels": WHOLE,
    "in_channels": WHOLE,
    "num_train_timesteps": WHOLE,
    "beta_start": POSITIVE,
    "beta_end": POSITIVE,
    "shift": POSITIVE,
    "flow_shift": POSITIVE,
    "base_shift": SHIFT,
    "max_shift": SHIFT,
    "base_image_seq_len": WHOLE,
    "max_image_seq_len": WHOLE,
    "steps_offset": "a whole number",
}
OF_VAE = {"scaling_factor": POSITIVE}
OF_NETWORK = {"patch_size": WHOLE, "axes_lens": LIST}  # a VAE's may have two sides, and is not read
OR_NULL = {
    "pos_embed_max_size": WHOLE,
    "trained_betas": LIST,
    "shift_factor": NUMBER,
    "latents_mean": LIST,
    "latents_std": DEVIATIONS,
}


def check_kinds(files: ModelFiles, name: str, *, is_vae: bool = False) -> Mapping[str, Any]:
    """Reads a config and refuses values of a kind that nothing can be computed with.

    Raises:
        ValueError: the message names file, key, value and what is allowed.
    """
    config = files.json(name)
    nullable = {key: kind for key, kind in OR_NULL.items() if config.get(key) is not None}
    for key, kind in (KINDS | nullable | (OF_VAE if is_vae else OF_NETWORK)).items():
        if key in config and not _is_of(kind, config[key]):
            raise files.error(f"{name}: {key}={config[key]!r}; allowed is {kind}")
    return config


def _is_of(kind: str, value: Any) -> bool:
    if kind == LIST:
        return isinstance(value, list) and len(value) > 0 and all(map(_is_number, value))
    if kind == DEVIATIONS:
        return _is_of(LIST, value) and all(one > 0 for one in value)
    if kind == FLAGS:
        return isinstance(value, list) and all(isinstance(one, bool) for one in value)
    if kind == NUMBER or not _is_number(value) or value < 0:
        return kind == NUMBER and _is_number(value)
    if kind == SHIFT:
        return bool(value <= 20)
    if kind == POSITIVE:
        return bool(value > 0)
    return isinstance(value, int) and (kind != WHOLE or value > 0)


def _is_number(value: Any) -> bool:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return is_number and math.isfinite(value)


def check_classes(wanted: Mapping[str, Mapping[str, Any]]) -> None:
    """Refuses configs, by the class that they should be of, that are of another one.

    Raises:
        UnsupportedModelError: the message names both classes.
    """
    for name, config in wanted.items():
        if config.get("_class_name", name) != name:
            raise UnsupportedModelError(f"network class {config['_class_name']}; allowed is {name}")


def check_size(model: Model, grid: Grid) -> None:
    """Refuses sizes with other sides than the model allows.

    Raises:
        ValueError: the message names ``model.size`` or ``model.buckets``, and what is allowed.
    """
    bound = f" up to {grid.largest}" if grid.largest else ""
    allowed = f"for this model allowed are multiples of {grid.multiple}{bound}"

    def suits(side: int) -> bool:
        return side % grid.multiple == 0 and side <= grid.longest

    if model.size is not None and not suits(model.size):
        raise ValueError(f"model.size={model.size}: {allowed}")
    for size in model.buckets if isinstance(model.buckets, list) else ():
        if not all(map(suits, size)):
            raise ValueError(f"model.buckets: {list(size)}: {allowed}")
