"""FID's Inception-v3 up to its features (pool3), which CSFID compares.

The weights are those of TensorFlow's graph of 2015-12-05, as ported by the package pytorch-fid
(``pt_inception-2015-12-05-6726825d.pth``). torchvision's network has other weights and blocks.
"""

# N images, C channels, h w the grid, D features (2,048 of the real weights).
from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from torch import Tensor
from torch.nn import functional as F

from pipeline.models.inception_layers import BLOCKS, LAYERS, VALID, shape_error
from pipeline.models.model_files import is_pointer, pointer_reason

SIDE = 299  # of the network's input, in pixels
NORM_EPS = 1e-3
HOW_TO_GET = (
    "it takes pt_inception-2015-12-05-6726825d.pth of github.com/mseitzer/pytorch-fid (release "
    "fid_weights) converted to safetensors; jobs/README.md, 'Weights of Inception', has the lines"
)


class Inception:
    """Computes features of images with the weights of one safetensors file."""

    def __init__(
        self, weights: Mapping[str, Tensor], device: str = "cpu", micro_batch: int = 32
    ) -> None:
        """
        Args:
            weights: by torchvision's names; batch norms are folded into their convolutions.
            device: the device to compute on.
            micro_batch: images per network call.

        Raises:
            ValueError: a tensor is missing or has another shape.
        """
        error = shape_error({name: tuple(tensor.shape) for name, tensor in weights.items()})
        if error is not None:
            raise ValueError(error)
        self.device, self.micro_batch = torch.device(device), micro_batch
        self.layers = {name: _folded(weights, name, self.device) for name in LAYERS}

    @torch.inference_mode()
    def features(self, images: Sequence[np.ndarray]) -> np.ndarray:
        """The network's features: its last average over the grid.

        Args:
            images: (H, W, 3) uint8, all of one size; scaled to 299 x 299 bilinearly without
                antialiasing, as for FID.

        Returns:
            (N, D) float32.
        """
        rows = []
        for start in range(0, len(images), self.micro_batch):
            chosen = np.stack(images[start : start + self.micro_batch])
            pixels = torch.from_numpy(chosen).to(self.device).permute(0, 3, 1, 2).float() / 255
            scaled = F.interpolate(pixels, (SIDE, SIDE), mode="bilinear", align_corners=False)
            rows.append(self.pool3(2 * scaled - 1).float().cpu().numpy())
        return np.concatenate(rows)

    def pool3(self, x_NCHW: Tensor) -> Tensor:
        """(N, D) features of (N, 3, 299, 299) pixels in [-1, 1]."""
        x = self._chain(x_NCHW, "", "Conv2d_1a_3x3", "Conv2d_2a_3x3", "Conv2d_2b_3x3")
        x = self._chain(F.max_pool2d(x, 3, 2), "", "Conv2d_3b_1x1", "Conv2d_4a_3x3")
        x = F.max_pool2d(x, 3, 2)
        for block in BLOCKS:
            x = torch.cat(self._branches(x, block), 1)
        return x.mean((2, 3))

    def _branches(self, x: Tensor, block: str) -> list[Tensor]:
        """The outputs of a block's branches, in the order of the paper and torchvision."""

        def chain(*names: str, of: Tensor = x) -> Tensor:
            return self._chain(of, f"{block}.", *names)

        def split(of: Tensor, *names: str) -> Tensor:
            return torch.cat([chain(name, of=of) for name in names], 1)

        def triple(name: str) -> Tensor:
            return chain(f"{name}_1", f"{name}_2", f"{name}_3")

        if block == "Mixed_6a":
            return [chain("branch3x3"), triple("branch3x3dbl"), F.max_pool2d(x, 3, 2)]
        if block == "Mixed_7a":
            seven = ("branch7x7x3_1", "branch7x7x3_2", "branch7x7x3_3", "branch7x7x3_4")
            return [chain("branch3x3_1", "branch3x3_2"), chain(*seven), F.max_pool2d(x, 3, 2)]
        # TensorFlow's average does not count the padding, and its graph has a maximum in the last
        # block, where the paper has an average.
        if block == "Mixed_7c":
            pool = F.max_pool2d(x, 3, 1, 1)
        else:
            pool = F.avg_pool2d(x, 3, 1, 1, count_include_pad=False)
        first, pooled = chain("branch1x1"), chain("branch_pool", of=pool)
        if block.startswith("Mixed_5"):
            five = chain("branch5x5_1", "branch5x5_2")
            return [first, five, triple("branch3x3dbl"), pooled]
        if block.startswith("Mixed_6"):
            double = [f"branch7x7dbl_{number}" for number in range(1, 6)]
            return [first, triple("branch7x7"), chain(*double), pooled]
        three = split(chain("branch3x3_1"), "branch3x3_2a", "branch3x3_2b")
        twice = chain("branch3x3dbl_1", "branch3x3dbl_2")
        return [first, three, split(twice, "branch3x3dbl_3a", "branch3x3dbl_3b"), pooled]

    def _chain(self, x: Tensor, prefix: str, *names: str) -> Tensor:
        for name in names:
            weight, bias = self.layers[prefix + name]
            stride = VALID.get(prefix + name)
            padding = (weight.shape[2] // 2, weight.shape[3] // 2) if stride is None else (0, 0)
            x = F.conv2d(x, weight, bias, stride or 1, padding).relu()
        return x


def check_inception(path: str) -> None:
    """Checks a weights file at start-up, by reading its header only.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is not a safetensors file, or holds another network.
    """
    file = Path(path).expanduser()
    if not file.is_file():
        raise FileNotFoundError(f"no such file; {HOW_TO_GET}")
    if file.suffix != ".safetensors":
        raise ValueError(f"a file of the wrong kind; allowed is safetensors; {HOW_TO_GET}")
    if is_pointer(file):
        raise ValueError(pointer_reason(file))
    try:
        with safe_open(file, framework="pt") as tensors:
            shapes = {n: tuple(tensors.get_slice(n).get_shape()) for n in tensors.keys()}  # noqa: SIM118
    except SafetensorError as error:
        raise ValueError(f"not safetensors: {error}") from None
    wrong = shape_error(shapes)
    if wrong is None:
        wrong = _layers_error(shapes)
    if wrong is not None:
        raise ValueError(f"{wrong}; {HOW_TO_GET}")


def load_inception(path: str, device: str) -> Inception:
    """Checks a weights file and loads it; raises the same errors as ``check_inception``."""
    check_inception(path)
    return Inception(load_file(Path(path).expanduser()), device)


def _layers_error(shapes: Mapping[str, tuple[int, ...]]) -> str | None:
    """Why consecutive layers do not fit together, found with meta tensors; None if they do."""
    empty = {name: torch.empty(shape, device="meta") for name, shape in shapes.items()}
    try:
        Inception(empty, "meta").pool3(torch.empty(1, 3, SIDE, SIDE, device="meta"))
    except RuntimeError as error:
        return f"its layers do not fit together: {str(error).splitlines()[0]}"
    return None


def _folded(
    weights: Mapping[str, Tensor], name: str, device: torch.device
) -> tuple[Tensor, Tensor]:
    """Weight and bias of a layer's convolution with the batch norm folded in."""
    scale, shift, mean, variance = (
        weights[f"{name}.bn.{part}"].double()
        for part in ("weight", "bias", "running_mean", "running_var")
    )
    factor = scale / (variance + NORM_EPS).sqrt()
    kernel = weights[f"{name}.conv.weight"].double() * factor[:, None, None, None]
    return kernel.float().to(device), (shift - mean * factor).float().to(device)
