"""Random weights of FID's Inception-v3, at its real width or narrower."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from pipeline.models.inception_layers import BLOCKS, LAYERS

# Output channels of each layer of the real network, in the order of ``LAYERS``.
CHANNELS = {
    "": (32, 32, 64, 80, 192),
    "5": (64, 48, 64, 64, 96, 96, 64),
    "6a": (384, 64, 96, 96),
    "7a": (192, 320, 192, 192, 192, 192),
    "7": (320, 384, 384, 384, 448, 384, 384, 384, 192),
}
INNER = {"Mixed_6b": 128, "Mixed_6c": 160, "Mixed_6d": 160, "Mixed_6e": 192}


def outputs(narrower: int = 1) -> dict[str, int]:
    """The number of output channels of each layer."""
    found = dict(zip(list(LAYERS)[:5], CHANNELS[""], strict=True))
    row: tuple[int, ...]
    for block, layers in BLOCKS.items():
        if block in INNER:
            inner = INNER[block]
            row = (192, inner, inner, 192, inner, inner, inner, inner, 192, 192)
        else:
            short = block.removeprefix("Mixed_")
            row = CHANNELS.get(short) or CHANNELS[short[0]]
            if block == "Mixed_5b":
                row = (*row[:-1], 32)
        found |= {f"{block}.{name}": out for name, out in zip(layers, row, strict=True)}
    return {name: out // narrower for name, out in found.items()}


def inception_weights(seed: int = 0, narrower: int = 1) -> dict[str, Tensor]:
    """Weights drawn by numpy in the order of their names, scaled to keep the activations' size.

    Args:
        narrower: divides the channels of every layer; 8 or 16 give a small network.
    """
    generator = np.random.default_rng(seed)
    out = outputs(narrower)
    weights: dict[str, np.ndarray] = {}
    for layer, kernel in sorted(LAYERS.items()):
        fan_in = _input_channels(layer, out)
        shape = (out[layer], fan_in, *kernel)
        values = generator.standard_normal(shape, dtype=np.float32)
        weights[f"{layer}.conv.weight"] = values * np.float32(np.sqrt(2 / np.prod(shape[1:])))
        for name, low, high in (
            *(("weight", 0.8, 1.2), ("bias", -0.1, 0.1)),
            *(("running_mean", -0.1, 0.1), ("running_var", 0.8, 1.2)),
        ):
            drawn = generator.uniform(low, high, out[layer]).astype(np.float32)
            weights[f"{layer}.bn.{name}"] = drawn
    return {name: torch.from_numpy(values) for name, values in weights.items()}


def _input_channels(layer: str, out: dict[str, int]) -> int:
    """The input channels of a layer: those of the previous layer in its branch, or its block's."""
    names = list(LAYERS)
    if "." not in layer:
        index = names.index(layer)
        return out[names[index - 1]] if index else 3
    block, name = layer.split(".")
    stem, _, number = name.rpartition("_")
    if number in ("2", "2a", "2b"):
        return out[f"{block}.{stem}_1"]
    if number in ("3a", "3b"):
        return out[f"{block}.{stem}_2"]
    if number in ("3", "4", "5"):
        return out[f"{block}.{stem}_{int(number) - 1}"]
    return _block_input_channels(block, out)


def _block_input_channels(block: str, out: dict[str, int]) -> int:
    """The input channels of a block: the concatenated outputs of the previous block's branches."""
    blocks = list(BLOCKS)
    index = blocks.index(block)
    if not index:
        return out["Conv2d_4a_3x3"]
    before = blocks[index - 1]

    def of(*names: str) -> int:
        return sum(out[f"{before}.{name}"] for name in names)

    if before == "Mixed_6a":
        return of("branch3x3", "branch3x3dbl_3") + _block_input_channels(before, out)
    if before == "Mixed_7a":
        return of("branch3x3_2", "branch7x7x3_4") + _block_input_channels(before, out)
    if before.startswith("Mixed_5"):
        return of("branch1x1", "branch5x5_2", "branch3x3dbl_3", "branch_pool")
    if before.startswith("Mixed_6"):
        return of("branch1x1", "branch7x7_3", "branch7x7dbl_5", "branch_pool")
    three = ("branch3x3_2a", "branch3x3_2b", "branch3x3dbl_3a", "branch3x3dbl_3b")
    return of("branch1x1", *three, "branch_pool")
