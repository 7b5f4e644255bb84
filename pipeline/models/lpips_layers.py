"""Which layers LPIPS compares, by backbone; without torch, so that weights are checked early."""

from __future__ import annotations

# The last module of each slice whose output is compared (of ``features``), and the number of its
# channels. Source: Zhang et al., arXiv:1801.03924, and the package lpips 0.1.4.
SLICES = {
    "alex": ((1, 64), (4, 192), (7, 384), (9, 256), (11, 256)),
    "squeeze": ((1, 64), (4, 128), (7, 256), (9, 384), (10, 384), (11, 512), (12, 512)),
    "vgg": ((3, 64), (8, 128), (15, 256), (22, 512), (29, 512)),
}
FIRST = {"alex": (64, 3, 11, 11), "squeeze": (64, 3, 3, 3), "vgg": (64, 3, 3, 3)}


def head_name(number: int) -> str:
    """The tensor of a slice's head, a 1 x 1 convolution to one channel."""
    return f"lin{number}.model.1.weight"


def telling_shapes(net: str) -> dict[str, tuple[int, ...]]:
    """The tensors that tell one backbone's weights from another's: the first layer, the heads."""
    heads = {head_name(n): (1, channels, 1, 1) for n, (_, channels) in enumerate(SLICES[net])}
    return {"features.0.weight": FIRST[net], **heads}
