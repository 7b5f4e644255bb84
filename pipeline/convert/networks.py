"""Makes networks of a checkpoint's tensors by diffusers' conversion, and lets nothing be lost.

diffusers leaves tensors that it does not know and those that are missing to a warning. Here every
value of the file's network and VAE must have become one of the converted network, and every tensor
of the network must have come from the file.
"""

from __future__ import annotations

import re
from functools import reduce
from pathlib import Path
from typing import Any

import diffusers
import torch
import transformers
from diffusers.loaders.single_file_utils import (
    convert_ldm_unet_checkpoint,
    convert_ldm_vae_checkpoint,
    create_diffusers_clip_model_from_ldm,
)
from safetensors import safe_open
from torch import Tensor

from pipeline.convert.checkpoint import Checkpoint
from pipeline.models.family import Family
from pipeline.models.weights import some_of

Tensors = dict[str, Tensor]
CONVERSIONS = {"unet": convert_ldm_unet_checkpoint, "vae": convert_ldm_vae_checkpoint}
# Merges of the first models were often stored without a level of the text encoder's names.
CLIP = re.compile(r"(cond_stage_model\.transformer\.)(?!text_model\.)")


def classes_of(family: Family) -> dict[str, Any]:
    """The class of each network of a family, by subfolder."""
    classes: dict[str, Any] = {
        family.network[0]: getattr(diffusers, family.network[1]),
        "vae": getattr(diffusers, family.vae),
    }
    return classes | {t.folders[0]: getattr(transformers, t.encoder) for t in family.texts}


def network_of(checkpoint: Checkpoint, part: str, kind: Any, base: Path) -> Any:
    """A part of a checkpoint as a network on the CPU, in the dtype of the file.

    Args:
        checkpoint: it has the part.
        part: the subfolder that it goes to.
        kind: the network's class in diffusers or transformers.
        base: a folder in diffusers' format whose configs say how large the network is.

    Raises:
        ConversionError: the tensors are not those of such a network.
    """
    tensors = _read(checkpoint, part)
    make = _diffusers_network if part in CONVERSIONS else _text_encoder
    try:
        network = make(tensors, part, kind, base)
    except (AttributeError, LookupError, RuntimeError, TypeError, ValueError) as error:
        why = " ".join(str(error).split()) or type(error).__name__
        raise checkpoint.error(f"its {part} does not fit the base's: {why}") from error
    state = network.state_dict()
    missing = sorted(name for name, tensor in state.items() if tensor.is_meta)
    if missing:
        raise checkpoint.error(
            f"its {part} lacks {len(missing)} tensors of the base's: {some_of(missing)}"
        )
    # Not of text encoders: a base with fewer layers is how "clip skip" is stored.
    if part in CONVERSIONS and _count(state) != _count(tensors):
        raise checkpoint.error(
            f"its {part} has {_count(tensors)} numbers, the base's {_count(state)}: they are "
            "different networks"
        )
    return network


def _diffusers_network(tensors: Tensors, part: str, kind: Any, base: Path) -> Any:
    config = kind.load_config(base / part)
    with torch.device("meta"):
        network = kind.from_config(config)
    state = CONVERSIONS[part](tensors, config)
    network.load_state_dict(state, strict=False, assign=True)
    return network


def _text_encoder(tensors: Tensors, part: str, kind: Any, base: Path) -> Any:
    dtype = next(iter(tensors.values())).dtype
    return create_diffusers_clip_model_from_ldm(
        kind, tensors, part, str(base), torch_dtype=dtype, local_files_only=True
    )


def _read(checkpoint: Checkpoint, part: str) -> Tensors:
    """A part's tensors, of one dtype, under the names that diffusers looks for."""
    with safe_open(checkpoint.path, framework="pt") as file:
        named = {name: file.get_tensor(name) for name in checkpoint.names_of(part)}
    # A part of several dtypes keeps every bit in the widest of them.
    dtype = reduce(torch.promote_types, {tensor.dtype for tensor in named.values()})
    return {CLIP.sub(r"\1text_model.", k): tensor.to(dtype) for k, tensor in named.items()}


def _count(tensors: Tensors) -> int:
    return sum(tensor.numel() for tensor in tensors.values())
