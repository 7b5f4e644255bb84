"""Finds at the start, from headers alone, that a LoRA is not one of this model. No torch.

Only keys whose layer is certain are judged: those of diffusers and peft, and kohya's in the names
of diffusers. ``fused_lora.py`` checks every key when an actor loads, after diffusers' conversions.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence

from pipeline.models.added_files import LoraFile
from pipeline.models.hub_errors import HubError
from pipeline.models.model_files import ModelFiles
from pipeline.models.weight_files import ChosenWeights, tensor_shapes
from pipeline.models.weights import WeightsError, some_of

# Of DoRA: diffusers drops the one with a warning, and so would compute another model.
REFUSED = ("dora_scale", "lora_magnitude_vector")
PARTS = ("unet", "transformer", "text_encoder", "text_encoder_2")
OF_DIFFUSERS = re.compile(r"(\w+)\.(.+?)\.lora_(?:A|B|up|down)(?:\.\w+)?\.(?:weight|bias)")
OF_KOHYA = re.compile(
    r"lora_unet_((?:down|up)_blocks_.+?|mid_block_.+?)\.(?:lora_\w+\.weight|alpha)"
)
CLIP = "text_model."  # before a CLIP's layers, in some versions of transformers


def check_loras(
    loras: Sequence[LoraFile], files: ModelFiles, weights: Mapping[str, ChosenWeights]
) -> None:
    """Refuses LoRAs with keys that surely match nothing of a model.

    Args:
        loras: found, fetched or not.
        files: of the model.
        weights: what is loaded of it, by subfolder.

    Raises:
        WeightsError: see ``check_lora_keys``. Headers that the hub does not give are left to the
            actors.
    """
    try:
        layers = {
            part: {
                tensor.rpartition(".")[0]
                for name in chosen.files
                if name.endswith(".safetensors")
                for tensor in tensor_shapes(files, name)
            }
            for part, chosen in weights.items()
            if part in PARTS
        }
        keys = [set(tensor_shapes(lora.files, lora.path.name)) for lora in loras]
    except HubError:
        return
    for lora, own in zip(loras, keys, strict=True):
        check_lora_keys(lora, own, layers)


def check_lora_keys(lora: LoraFile, keys: Collection[str], layers: Mapping[str, set[str]]) -> None:
    """Refuses a LoRA with keys that surely match nothing.

    Args:
        lora: for the error.
        keys: of the file.
        layers: of the model, by subfolder: the names of its tensors without their last part.

    Raises:
        WeightsError: it is a DoRA, has no keys, or has some of layers that this model lacks.
    """
    refused = sorted(key for key in keys if any(word in key for word in REFUSED))
    if refused:
        raise WeightsError(f"model.lora: {lora.path} is a DoRA ({some_of(refused)}); allowed: LoRA")
    known = {part: {name.removeprefix(CLIP) for name in names} for part, names in layers.items()}
    flat = {name.replace(".", "_") for name in known.get("unet", ())}
    unmatched = sorted(key for key in keys if _matches_nothing(key, known, flat))
    if unmatched or not keys:
        raise WeightsError(
            f"model.lora: {lora.path}: {len(unmatched)} of {len(keys)} keys match nothing of "
            f"this model: {some_of(unmatched)}"
        )


def _matches_nothing(key: str, known: Mapping[str, set[str]], flat: set[str]) -> bool:
    if (match := OF_KOHYA.fullmatch(key)) and flat:
        return match[1] not in flat
    match = OF_DIFFUSERS.fullmatch(key)
    if match is None or match[1] not in PARTS:
        return False
    return match[2].removeprefix(CLIP) not in known.get(match[1], set())
