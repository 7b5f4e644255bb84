"""LPIPS: the backbones AlexNet, SqueezeNet and VGG-16, and the calibrated distance over them.

Modules have torchvision's names (``features.0.weight``) and heads those of the package lpips
(``lin0.model.1.weight``), so that the weights of both load without renaming.
"""

# N images, C channels of a feature map, h w its size.
from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from pipeline.models.lpips_layers import SLICES, head_name

# ImageNet's statistics for values in [-1, 1], as in the package lpips.
SHIFT, SCALE = (-0.030, -0.088, -0.188), (0.458, 0.448, 0.450)
EPS = 1e-10


class Fire(nn.Module):
    """SqueezeNet's module: squeeze to a few channels, expand by 1 x 1 and 3 x 3."""

    def __init__(self, channels: int, squeezed: int, expanded: int) -> None:
        super().__init__()
        self.squeeze = nn.Conv2d(channels, squeezed, 1)
        self.expand1x1 = nn.Conv2d(squeezed, expanded, 1)
        self.expand3x3 = nn.Conv2d(squeezed, expanded, 3, padding=1)

    def forward(self, features: Tensor) -> Tensor:
        squeezed = self.squeeze(features).relu()
        return torch.cat([self.expand1x1(squeezed).relu(), self.expand3x3(squeezed).relu()], 1)


def backbone(net: str) -> nn.Sequential:
    """The feature layers of a backbone, up to the last one that LPIPS compares."""
    if net == "alex":
        return nn.Sequential(
            *(nn.Conv2d(3, 64, 11, 4, 2), nn.ReLU(), nn.MaxPool2d(3, 2)),
            *(nn.Conv2d(64, 192, 5, padding=2), nn.ReLU(), nn.MaxPool2d(3, 2)),
            *(nn.Conv2d(192, 384, 3, padding=1), nn.ReLU()),
            *(nn.Conv2d(384, 256, 3, padding=1), nn.ReLU()),
            *(nn.Conv2d(256, 256, 3, padding=1), nn.ReLU()),
        )
    if net == "squeeze":
        return nn.Sequential(
            *(nn.Conv2d(3, 64, 3, 2), nn.ReLU(), nn.MaxPool2d(3, 2, ceil_mode=True)),
            *(Fire(64, 16, 64), Fire(128, 16, 64), nn.MaxPool2d(3, 2, ceil_mode=True)),
            *(Fire(128, 32, 128), Fire(256, 32, 128), nn.MaxPool2d(3, 2, ceil_mode=True)),
            *(Fire(256, 48, 192), Fire(384, 48, 192), Fire(384, 64, 256), Fire(512, 64, 256)),
        )
    layers: list[nn.Module] = []
    channels = 3
    for block in ((64, 64), (128, 128), (256,) * 3, (512,) * 3, (512,) * 3):
        for wider in block:
            layers += [nn.Conv2d(channels, wider, 3, padding=1), nn.ReLU()]
            channels = wider
        layers.append(nn.MaxPool2d(2, 2))
    return nn.Sequential(*layers[:-1])


def shapes_of(net: str) -> dict[str, tuple[int, ...]]:
    """Names and shapes of the tensors that a backbone and its heads need."""
    with torch.device("meta"):
        stack = backbone(net).state_dict()
    shapes = {f"features.{name}": tuple(tensor.shape) for name, tensor in stack.items()}
    heads = enumerate(SLICES[net])
    return shapes | {head_name(n): (1, channels, 1, 1) for n, (_, channels) in heads}


class Lpips(nn.Module):
    """The learned perceptual distance of images, version 0.1."""

    shift: Tensor
    scale: Tensor

    def __init__(self, net: str, weights: Mapping[str, Tensor]) -> None:
        """
        Args:
            net: alex, squeeze or vgg.
            weights: at least the tensors that ``shapes_of`` lists.

        Raises:
            ValueError: a tensor is missing or has another shape.
        """
        super().__init__()
        for name, shape in shapes_of(net).items():
            found = tuple(weights[name].shape) if name in weights else None
            if found != shape:
                raise ValueError(f"{name} is {found or 'missing'}; {shape} is needed")
        self.features = backbone(net)
        prefix = "features."
        stack = {
            name.removeprefix(prefix): weights[name]
            for name in shapes_of(net)
            if name.startswith(prefix)
        }
        self.features.load_state_dict(stack)
        self.ends = [end for end, _ in SLICES[net]]
        self.heads = nn.ParameterList(
            nn.Parameter(weights[head_name(n)][:, :, 0, 0].clone()) for n in range(len(self.ends))
        )
        self.register_buffer("shift", torch.tensor(SHIFT)[:, None, None])
        self.register_buffer("scale", torch.tensor(SCALE)[:, None, None])

    def forward(self, before: Tensor, after: Tensor) -> Tensor:
        """
        Args:
            before: (N, 3, H, W) in [-1, 1].
            after: same shape.

        Returns:
            (N,) float32, 0 for equal images.
        """
        total = before.new_zeros(len(before), dtype=torch.float32)
        pairs = zip(self.slices(before), self.slices(after), strict=True)
        for head, (before_NChw, after_NChw) in zip(self.heads, pairs, strict=True):
            squares = (_unit(before_NChw) - _unit(after_NChw)).square()
            total = total + torch.einsum("nchw,c->nhw", squares, head[0].float()).mean((1, 2))
        return total

    def slices(self, images: Tensor) -> list[Tensor]:
        """The outputs of the compared layers."""
        features = (images - self.shift) / self.scale
        outputs = []
        for number, layer in enumerate(self.features):
            features = layer(features)
            if number in self.ends:
                outputs.append(features)
        return outputs


def _unit(features: Tensor) -> Tensor:
    """Features scaled to length 1 over the channels, in float32."""
    features = features.float()
    return features / (features.square().sum(1, keepdim=True).sqrt() + EPS)
