"""The layers of FID's Inception-v3 by name. Needs no torch, so start-up checks can use it."""

from __future__ import annotations

from collections.abc import Mapping

Kernel = tuple[int, int]

_ONE, _THREE, _FIVE = (1, 1), (3, 3), (5, 5)
_WIDE, _TALL = (1, 7), (7, 1)

# Names are torchvision's, so that the weights load without renaming.
_A: dict[str, Kernel] = {
    "branch1x1": _ONE,
    "branch5x5_1": _ONE,
    "branch5x5_2": _FIVE,
    "branch3x3dbl_1": _ONE,
    "branch3x3dbl_2": _THREE,
    "branch3x3dbl_3": _THREE,
    "branch_pool": _ONE,
}
_B: dict[str, Kernel] = {
    "branch3x3": _THREE,
    "branch3x3dbl_1": _ONE,
    "branch3x3dbl_2": _THREE,
    "branch3x3dbl_3": _THREE,
}
_C: dict[str, Kernel] = {
    "branch1x1": _ONE,
    "branch7x7_1": _ONE,
    "branch7x7_2": _WIDE,
    "branch7x7_3": _TALL,
    "branch7x7dbl_1": _ONE,
    "branch7x7dbl_2": _TALL,
    "branch7x7dbl_3": _WIDE,
    "branch7x7dbl_4": _TALL,
    "branch7x7dbl_5": _WIDE,
    "branch_pool": _ONE,
}
_D: dict[str, Kernel] = {
    "branch3x3_1": _ONE,
    "branch3x3_2": _THREE,
    "branch7x7x3_1": _ONE,
    "branch7x7x3_2": _WIDE,
    "branch7x7x3_3": _TALL,
    "branch7x7x3_4": _THREE,
}
_E: dict[str, Kernel] = {
    "branch1x1": _ONE,
    "branch3x3_1": _ONE,
    "branch3x3_2a": (1, 3),
    "branch3x3_2b": (3, 1),
    "branch3x3dbl_1": _ONE,
    "branch3x3dbl_2": _THREE,
    "branch3x3dbl_3a": (1, 3),
    "branch3x3dbl_3b": (3, 1),
    "branch_pool": _ONE,
}
STEM: dict[str, Kernel] = {
    "Conv2d_1a_3x3": _THREE,
    "Conv2d_2a_3x3": _THREE,
    "Conv2d_2b_3x3": _THREE,
    "Conv2d_3b_1x1": _ONE,
    "Conv2d_4a_3x3": _THREE,
}
BLOCKS: dict[str, dict[str, Kernel]] = {
    "Mixed_5b": _A,
    "Mixed_5c": _A,
    "Mixed_5d": _A,
    "Mixed_6a": _B,
    "Mixed_6b": _C,
    "Mixed_6c": _C,
    "Mixed_6d": _C,
    "Mixed_6e": _C,
    "Mixed_7a": _D,
    "Mixed_7b": _E,
    "Mixed_7c": _E,
}
LAYERS: dict[str, Kernel] = STEM | {
    f"{block}.{name}": kernel for block, layers in BLOCKS.items() for name, kernel in layers.items()
}
# Strides of the convolutions without padding. All others have stride 1 and keep the size.
VALID = {
    "Conv2d_1a_3x3": 2,
    "Conv2d_2a_3x3": 1,
    "Conv2d_4a_3x3": 1,
    "Mixed_6a.branch3x3": 2,
    "Mixed_6a.branch3x3dbl_3": 2,
    "Mixed_7a.branch3x3_2": 2,
    "Mixed_7a.branch7x7x3_4": 2,
}
# The batch norm that follows each convolution; convolutions have no bias.
NORM = ("bn.weight", "bn.bias", "bn.running_mean", "bn.running_var")


def shape_error(shapes: Mapping[str, tuple[int, ...]]) -> str | None:
    """Why these tensors cannot be this network's, or None if names and kernel sizes match.

    The number of channels is not checked: it is read from the weights.
    """
    for layer, kernel in LAYERS.items():
        name = f"{layer}.conv.weight"
        shape = shapes.get(name)
        if shape is None or len(shape) != 4 or shape[2:] != kernel:
            found = "missing" if shape is None else f"of shape {shape}"
            return f"{name} is {found}; a kernel of {kernel[0]} x {kernel[1]} is needed"
        for norm in NORM:
            if shapes.get(f"{layer}.{norm}") != (shape[0],):
                norm_shape = shapes.get(f"{layer}.{norm}", "missing")
                return f"{layer}.{norm} is {norm_shape}; {(shape[0],)} is needed"
    return None
