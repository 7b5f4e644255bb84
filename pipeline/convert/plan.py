"""What a conversion will do: checkpoint and base are compared as far as headers and configs go."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path

from pipeline.convert.checkpoint import PREFIXES, Checkpoint, ConversionError, open_checkpoint
from pipeline.models.added_files import folder_or_hub
from pipeline.models.families import family_of
from pipeline.models.family import Family
from pipeline.models.family_facts import Json, UnsupportedModelError
from pipeline.models.model_files import ModelFiles
from pipeline.models.weights import some_of

BASE = "--base"
XL = "stable-diffusion-xl"
FAMILIES = ("stable-diffusion", XL)
FIRST = "model.diffusion_model.input_blocks.0.0.weight"  # (C_out, C_in, 3, 3)


@dataclass(frozen=True)
class Conversion:
    """What a conversion will do.

    Attributes:
        checkpoint: the file.
        base: the model whose configs, tokenizers and schedule are taken.
        index: the base's.
        family: of both.
        converted: the subfolders whose weights come from the checkpoint.
        copied: those whose weights come from the base.
        scheduler: the base's config, with what the checkpoint says of itself.
        notes: lines for the user.
    """

    checkpoint: Checkpoint
    base: ModelFiles
    index: Json
    family: Family
    converted: tuple[str, ...]
    copied: tuple[str, ...]
    scheduler: Json
    notes: tuple[str, ...]


def plan_conversion(
    path: Path, base: str, revision: str | None, from_base: Collection[str]
) -> Conversion:
    """Compares a checkpoint with a base. Of a hub model only JSON files are downloaded.

    Args:
        path: of the checkpoint.
        base: a folder in diffusers' format, or a hub id.
        revision: branch, tag or commit of a hub id.
        from_base: subfolders whose weights shall come from the base.

    Raises:
        FileNotFoundError: there is no such file, folder or model.
        ConversionError: see ``open_checkpoint``; or the checkpoint is of another kind than the
            base, or lacks a part that ``from_base`` does not name.
        ValueError: the base cannot be used.
    """
    checkpoint = open_checkpoint(path)
    files = folder_or_hub(BASE, base, revision)
    index = files.json("model_index.json")
    try:
        family = family_of(str(index.get("_class_name")))
    except UnsupportedModelError as error:
        raise files.error(str(error)) from None
    if family.name not in FAMILIES:
        raise files.error(f"is {family.name}; allowed are models of {' and '.join(FAMILIES)}")
    parts = [name for name in family.components if name in PREFIXES]
    if wrong := sorted(set(from_base) - set(parts)):
        raise ConversionError(f"--from-base={wrong[0]!r}; allowed are {', '.join(parts)}")
    if checkpoint.is_vae:
        parts = ["vae"]
    else:
        _check_kind(checkpoint, files, family)
    converted = tuple(name for name in parts if name not in from_base)
    _check_complete(checkpoint, converted)
    scheduler = files.json("scheduler/scheduler_config.json")
    return Conversion(
        checkpoint=checkpoint,
        base=files,
        index=index,
        family=family,
        converted=converted,
        copied=tuple(name for name in parts if name in from_base),
        scheduler={**scheduler, **_said_of(checkpoint)},
        notes=tuple(_notes(checkpoint, scheduler)),
    )


def _check_kind(checkpoint: Checkpoint, base: ModelFiles, family: Family) -> None:
    """Refuses a checkpoint of another family, and one whose network takes other channels."""
    is_xl = any(name.startswith("conditioner.") for name in checkpoint.tensors)
    is_older = any(name.startswith("cond_stage_model.") for name in checkpoint.tensors)
    if (is_xl and family.name != XL) or (is_older and family.name == XL):
        kind = "SDXL" if is_xl else "Stable Diffusion 1.x or 2.x"
        raise checkpoint.error(
            f"is {kind}, and {BASE}={base.path!r} is {family.name}; allowed is a base of its kind"
        )
    wanted = base.json(f"{family.network[0]}/config.json").get("in_channels")
    first = checkpoint.tensors.get(FIRST)
    if first is not None and len(first.shape) == 4 and first.shape[1] != wanted:
        raise checkpoint.error(
            f"its network takes {first.shape[1]} channels (an inpainting or instruction model?), "
            f"the base's {wanted}; allowed are text-to-image models"
        )


def _check_complete(checkpoint: Checkpoint, parts: Collection[str]) -> None:
    absent = [name for name in parts if not checkpoint.names_of(name)]
    if absent:
        options = " ".join(f"--from-base {name}" for name in absent)
        what = " and ".join(f"{name} ({' or '.join(PREFIXES[name])})" for name in absent)
        raise checkpoint.error(f"has no {what}; with {options} the base's weights are taken")


def _said_of(checkpoint: Checkpoint) -> Json:
    """What a checkpoint says of its training, in terms of a scheduler's config."""
    said: dict[str, object] = {}
    if "v_pred" in checkpoint.flags:
        said["prediction_type"] = "v_prediction"
    if "ztsnr" in checkpoint.flags:
        said |= {"rescale_betas_zero_snr": True, "timestep_spacing": "trailing"}
    return said


def _notes(checkpoint: Checkpoint, scheduler: Json) -> Iterator[str]:
    changed = {k: v for k, v in _said_of(checkpoint).items() if scheduler.get(k) != v}
    if changed:
        keys = ", ".join(f"{key}={value!r}" for key, value in changed.items())
        yield f"scheduler: {keys}, as {' and '.join(checkpoint.flags)} in the file say"
    averages = sum(name.startswith("model_ema.diffusion_model") for name in checkpoint.tensors)
    if averages:
        yield f"{averages} tensors of averaged weights (model_ema.) are not used"
    unknown = checkpoint.unknown()
    if unknown:
        yield f"{len(unknown)} tensors are of no part of the model: {some_of(unknown)}"
