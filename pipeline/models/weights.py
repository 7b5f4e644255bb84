"""Loads one network, and refuses it unless every tensor of it came from the weights."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

# Buffers that older versions of transformers stored and newer ones compute.
BENIGN = ("position_ids",)
MAX_NAMES = 5
NUMBER = re.compile(r"\d+")  # of a layer

logger = logging.getLogger(__name__)


class WeightsError(ValueError):
    """The weights do not fit the network; loading them again does not help."""


def load_network(kind: Any, folder: Path, key: str, **options: Any) -> Any:
    """A network of diffusers or transformers from a folder: safetensors only, no remote code.

    Both libraries fill tensors that the weights lack with random numbers and only log it. Here
    that is an error. Tensors of the file that the network does not have are logged, unless they
    are of further layers like its own. A text encoder may have such: a config with fewer layers
    is how models that were trained on the last layer but one ("clip skip") are often stored.

    Args:
        kind: the class.
        folder: holds config and weights.
        key: of the configuration, with its value, for the error.
        options: for ``from_pretrained``.

    Raises:
        WeightsError: a tensor is missing, has another shape, holds a value that is not finite or
            is of a layer too many; the message names it.
    """
    network, report = kind.from_pretrained(
        folder,
        use_safetensors=True,
        local_files_only=True,
        trust_remote_code=False,
        output_loading_info=True,
        ignore_mismatched_sizes=True,  # they are listed, and refused below
        **options,
    )
    missing = _named(report["missing_keys"])
    if missing:
        raise WeightsError(
            f"{key}: the weights in {folder} lack {len(missing)} tensors of the network "
            f"({some_of(missing)}); they would be random numbers"
        )
    if report["mismatched_keys"]:
        wrong = sorted(
            f"{name} is {tuple(found)}, the network has {tuple(wanted)}"
            for name, found, wanted in report["mismatched_keys"]
        )
        raise WeightsError(
            f"{key}: {len(wrong)} tensors in {folder} have another shape than its config says: "
            f"{some_of(wrong, '; ')}"
        )
    broken = _not_finite(network)
    if broken:
        raise WeightsError(
            f"{key}: {len(broken)} tensors in {folder} have values that are not finite "
            f"({some_of(broken)}); every edit would fail"
        )
    unused = _named(report["unexpected_keys"])
    kinds = {NUMBER.sub("N", name) for name, _ in network.named_parameters()}
    layers = [name for name in unused if NUMBER.sub("N", name) in kinds]
    is_text_encoder = kind.__module__.startswith("transformers.")
    if layers and not is_text_encoder:
        raise WeightsError(
            f"{key}: the weights in {folder} have {len(layers)} tensors of layers that its config "
            f"leaves out ({some_of(layers)}): they are of another network"
        )
    if unused:
        logger.info(
            "%s: %d tensors in %s are not used: %s", key, len(unused), folder, some_of(unused)
        )
    return network


def _not_finite(network: Any) -> list[str]:
    """Parameters with NaN or infinity among their values; one pass, which makes no copy."""
    import torch  # here: the driver imports this file, and starts without torch

    named = [(name, one) for name, one in network.named_parameters() if one.numel()]
    with torch.no_grad():
        ends = [torch.stack([*one.aminmax()]).float() for _, one in named]
        is_finite = torch.stack(ends).isfinite().all(1).tolist() if ends else []
    return [name for (name, _), finite in zip(named, is_finite, strict=True) if not finite]


def _named(names: Iterable[str]) -> list[str]:
    return sorted(name for name in names if not name.endswith(BENIGN))


def some_of(names: list[str], separator: str = ", ") -> str:
    """The first names, and how many more there are."""
    more = f"{separator}and {len(names) - MAX_NAMES} more" if len(names) > MAX_NAMES else ""
    return separator.join(names[:MAX_NAMES]) + more
