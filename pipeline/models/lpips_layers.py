"""The layers that LPIPS compares, by backbone. Needs no torch, so start-up checks can use it."""

from __future__ import annotations

# For each slice of ``features``: its last module, whose output is compared, and the number of
# channels there. Source: Zhang et al., arXiv:1801.03924, and the package lpips 0.1.4.
SLICES = {
    "alex": ((1, 64), (4, 192), (7, 384), (9, 256), (11, 256)),
    "squeeze": ((1, 64), (4, 128), (7, 256), (9, 384), (10, 384), (11, 512), (12, 512)),
    "vgg": ((3, 64), (8, 128), (15, 256), (22, 512), (29, 512)),
}
FIRST = {"alex": (64, 3, 11, 11), "squeeze": (64, 3, 3, 3), "vgg": (64, 3, 3, 3)}


def head_name(number: int) -> str:
    """The name of the tensor of a slice's head, a 1 x 1 convolution to one channel."""
    return f"lin{number}.model.1.weight"


def identifying_shapes(net: str) -> dict[str, tuple[int, ...]]:
    """Shapes that identify a backbone's weights: those of the first layer and the heads."""
    heads = {head_name(n): (1, channels, 1, 1) for n, (_, channels) in enumerate(SLICES[net])}
    return {"features.0.weight": FIRST[net], **heads}
