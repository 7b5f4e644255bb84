"""Fuses LoRA files into a model's weights, through diffusers' loaders and peft.

``lora.py`` is another matter: the factors that Imagic fits, one set for each row of a batch.
"""

from __future__ import annotations

from typing import Any

from diffusers.utils import convert_state_dict_to_diffusers, convert_state_dict_to_peft
from diffusers.utils.state_dict_utils import convert_unet_state_dict_to_peft
from torch import nn

from pipeline.models.added_files import LoraFile
from pipeline.models.weights import WeightsError, some_of

# What diffusers' conversions raise for keys that they do not know.
NOT_CONVERTED = (ValueError, KeyError, IndexError, AttributeError, TypeError)


def fuse_loras(pipeline: Any, network: str, loras: tuple[LoraFile, ...]) -> None:
    """Changes the weights of network and text encoders in place: W + weight * alpha / rank * B A.

    Args:
        pipeline: of the model's family, with the network and the text encoders in it.
        network: its name in the pipeline: unet or transformer.
        loras: fused in this order.

    Raises:
        WeightsError: a key of a file matches nothing of this model; the message names it.
    """
    for number, lora in enumerate(loras):
        parts = {
            name: part
            for name in pipeline._lora_loadable_modules
            if isinstance(part := getattr(pipeline, name, None), nn.Module)
        }
        where = {"weight_name": lora.path.name, "local_files_only": True, "use_safetensors": True}
        _check_keys(pipeline, network, parts, lora, where)
        name = f"lora_{number}"
        pipeline.load_lora_weights(str(lora.path.parent), adapter_name=name, **where)
        pipeline.fuse_lora(components=list(parts), lora_scale=lora.weight, adapter_names=[name])
        pipeline.unload_lora_weights()
        for part in parts.values():
            part.eval().requires_grad_(False)


def _check_keys(
    pipeline: Any, network: str, parts: dict[str, nn.Module], lora: LoraFile, where: dict[str, Any]
) -> None:
    """Every key of the file must name a layer of the model: peft skips what it does not find."""
    options = {"unet_config": parts[network].config} if network == "unet" else {}
    try:
        found = pipeline.lora_state_dict(str(lora.path.parent), **where, **options)
        tensors = found[0] if isinstance(found, tuple) else found
        unmatched = _unmatched(dict(tensors), network, parts)
    except NOT_CONVERTED as error:
        reason = str(error).strip().splitlines()[-1] if str(error) else type(error).__name__
        raise WeightsError(
            f"model.lora: {lora.path}: its keys are no LoRA of {type(pipeline).__name__}: "
            f"{reason[:200]}"
        ) from None
    if unmatched or not tensors:
        raise WeightsError(
            f"model.lora: {lora.path}: {len(unmatched)} of {len(tensors)} keys match nothing of "
            f"this model: {some_of(sorted(unmatched))}"
        )


def _unmatched(tensors: dict[str, Any], network: str, parts: dict[str, nn.Module]) -> list[str]:
    """The keys of diffusers' form that name no layer, or no change of one."""
    unmatched = [key for key in tensors if key.partition(".")[0] not in parts]
    for part, module in parts.items():
        own = {
            key.removeprefix(f"{part}."): value
            for key, value in tensors.items()
            if key.startswith(f"{part}.")
        }
        if not own:
            continue
        if part != network:
            own = convert_state_dict_to_peft(convert_state_dict_to_diffusers(own))
            if not hasattr(module, "text_model"):  # as diffusers does for flattened CLIPs
                own = {key.removeprefix("text_model."): value for key, value in own.items()}
        elif not any("lora_A" in key for key in own):
            own = convert_unet_state_dict_to_peft(own)
        layers = {name for name, _ in module.named_modules()}
        unmatched += [
            f"{part}.{key}"
            for key in own
            if ".lora_" not in key or key.partition(".lora_")[0] not in layers
        ]
    return unmatched
