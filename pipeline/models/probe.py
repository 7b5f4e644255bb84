"""Finds out what a model is, without torch and without loading weights, so start-up stays fast.

Every error is one line that names the key, the value and what is allowed.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, NamedTuple

from pipeline.config.model import Model
from pipeline.diffusion.schedule import NoiseSchedule
from pipeline.models.added_files import LoraFile, OtherVae, find_loras, find_vae
from pipeline.models.distilled import distilled_kind
from pipeline.models.families import family_named, family_of, names_where
from pipeline.models.family import Family
from pipeline.models.family_facts import UnsupportedModelError
from pipeline.models.file_hashes import FileHashes
from pipeline.models.loaded_files import files_of, weights_of
from pipeline.models.lora_keys import check_loras
from pipeline.models.model_files import (
    CHECKPOINT,
    PICKLES,
    ModelFiles,
    locate_model,
    model_error,
    read_json,
    revision_of,
    to_convert,
)
from pipeline.models.model_info import ModelInfo
from pipeline.models.network_checks import check_classes, check_kinds, check_size
from pipeline.models.weight_files import check_files


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
            supported, or ``model.size`` or ``model.buckets`` does not suit it, or a LoRA is of
            another model.
    """
    files = locate_model(model)
    index = _index(files)
    how: Any = {"hash_files": hash_files, "hashes": hashes, "fetch": fetch}
    loras, other_vae = find_loras(model, **how), find_vae(model, **how)
    try:
        configs = _read_configs(files, index, takes_lora=bool(loras), other_vae=other_vae)
        info = _described(configs, files, loras, other_vae)
    except UnsupportedModelError as error:
        raise files.error(str(error)) from None
    check_size(model, configs.family.grid(configs.network, configs.vae))
    names = [model.path, *_names(index, configs.network), *(str(lora.path) for lora in loras)]
    distilled = configs.family.distilled(index) or distilled_kind(
        names, configs.scheduler, configs.family.few_steps
    )
    weights = weights_of(files, info.components, model)
    loaded = files_of(files, configs.family, info.components, weights)
    try:
        load_schedule(info, info.size_for(model))
    except ValueError as error:
        raise model_error(model.path, str(error)) from None
    if fetch:
        files.fetch(loaded)
    if fetch or not files.is_remote:
        check_files(files, loaded)
    if loras:
        check_loras(loras, files, weights)
    return replace(
        info,
        revision=revision_of(files, loaded, model.revision, hashes, hash_files=hash_files),
        files=loaded,
        variants={name: chosen.variant for name, chosen in weights.items()},
        distilled=distilled,
    )


class _Configs(NamedTuple):
    """What the JSON files of a model say, checked."""

    family: Family
    components: tuple[str, ...]
    network: Mapping[str, Any]
    vae: Mapping[str, Any]
    scheduler: Mapping[str, Any]


def _read_configs(
    files: ModelFiles, index: Mapping[str, Any], *, takes_lora: bool, other_vae: OtherVae | None
) -> _Configs:
    """Reads the JSON files; raises ValueError, or UnsupportedModelError, which has no key yet."""
    family = family_of(str(index.get("_class_name")))
    if takes_lora and not family.takes_loras:
        raise ValueError(
            f"model.lora: not supported for {family.name}; allowed are {names_where('takes_loras')}"
        )
    components = _components(files, family, index, own_vae=other_vae is None)
    network = check_kinds(files, f"{family.network[0]}/config.json")
    if other_vae is None:
        vae = check_kinds(files, "vae/config.json", is_vae=True)
    else:
        vae = check_kinds(other_vae.files, other_vae.config, is_vae=True)
    scheduler = check_kinds(files, "scheduler/scheduler_config.json")
    check_classes({family.network[1]: network, family.vae: vae})
    family.check(index, network, vae)
    return _Configs(family, components, network, vae, scheduler)


def _described(
    configs: _Configs, files: ModelFiles, loras: tuple[LoraFile, ...], other_vae: OtherVae | None
) -> ModelInfo:
    """What the configs say; files and revision are found later."""
    family = configs.family
    grid = family.grid(configs.network, configs.vae)
    return ModelInfo(
        folder=files.folder,
        revision="",
        family=family.name,
        prediction_type=family.prediction_type(configs.scheduler),
        native_size=grid.native_size,
        latent_scale=grid.scale,
        latent_channels=grid.channels,
        multiple=grid.multiple,
        halvings=grid.halvings,
        longest=grid.longest,
        components=configs.components,
        commit=files.commit,
        loras=loras,
        vae=other_vae,
    )


def load_schedule(info: ModelInfo, size: int) -> NoiseSchedule:
    """The model's noise schedule.

    Args:
        info: of a probed model.
        size: image side in pixels; some flow-matching models shift their schedule with it
            (``for_grid`` gives that of another size).

    Raises:
        ValueError: the scheduler's config uses an unsupported option.
    """
    family = family_named(info.family)
    network = read_json(info.folder / family.network[0] / "config.json")
    vae = read_json(info.vae_folder / "config.json")
    config = read_json(info.folder / "scheduler/scheduler_config.json")
    grid = family.grid(network, vae)
    cells = size // grid.scale
    return family.schedule(config, (cells, cells), grid.multiple // grid.scale)


def _index(files: ModelFiles) -> Mapping[str, Any]:
    """Reads ``model_index.json``."""
    if "model_index.json" not in files.sizes:
        beside = [name for name in files.names_in("") if name.endswith((*PICKLES, CHECKPOINT))]
        found = f" (but {beside[0]})" if beside else ""
        reason = (
            f"{files.folder} has no model_index.json{found}; allowed is a folder in diffusers' "
            "format"
        )
        if checkpoints := [name for name in beside if name.endswith(CHECKPOINT)]:
            reason += f"; {to_convert(checkpoints[0])}"
        raise files.error(reason)
    return files.json("model_index.json")


def _names(*configs: Mapping[str, Any]) -> list[str]:
    """The names under which a model's configs say that it was saved."""
    return [str(config["_name_or_path"]) for config in configs if config.get("_name_or_path")]


def _components(
    files: ModelFiles, family: Family, index: Mapping[str, Any], *, own_vae: bool
) -> tuple[str, ...]:
    """The model's subfolders that are loaded, checked to be there."""
    left_out = set() if own_vae else {"vae"}
    left_out |= {name for name in family.optional if index.get(name) in (None, [], [None, None])}
    components = tuple(name for name in family.components if name not in left_out)
    for name in components:
        if not files.names_in(name):
            raise files.error(
                f"{files.folder} has no {name}/; its {family.name} model needs one, as does every "
                f"folder of {family.needs}"
            )
    return components
