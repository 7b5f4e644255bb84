"""On a CPU in float32: oneDNN multiplies matrices, also where torch would not ask it.

torch gives linear layers to MKL, and small convolutions of one thread to a loop around MKL. On
AMD's processors MKL's float32 product runs at less than half the rate of oneDNN's, which serves
torch's other convolutions anyway (a core of an EPYC of the fifth generation: 103 against 245
GFLOP/s). In half precision torch asks oneDNN itself.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn


class OneDnnLinear(nn.Linear):
    """``nn.Linear`` by oneDNN, where no gradient passes; else torch's own."""

    def forward(self, input: Tensor) -> Tensor:
        if _wants_gradient(input, self.weight):  # the operator has no derivative
            return super().forward(input)
        linear = torch.ops.mkldnn._linear_pointwise  # what torch's inductor calls
        output: Tensor = linear(input, self.weight, self.bias, "none", [], "")
        return output


class OneDnnConv2d(nn.Conv2d):
    """``nn.Conv2d`` by oneDNN, where no gradient passes; else as torch chooses."""

    def forward(self, input: Tensor) -> Tensor:
        if _wants_gradient(input, self.weight):
            return super().forward(input)
        assert not isinstance(self.padding, str), "use_onednn leaves such layers alone"
        return torch.mkldnn_convolution(
            input, self.weight, self.bias, self.padding, self.stride, self.dilation, self.groups
        )


REPLACED: dict[type[nn.Module], type[nn.Module]] = {
    nn.Linear: OneDnnLinear,
    nn.Conv2d: OneDnnConv2d,
}


def use_onednn(network: nn.Module) -> None:
    """Changes, in place, how a network's layers are computed; their weights stay where they are.

    Args:
        network: on a CPU, float32, not to be compiled. Layers of classes derived from torch's own
            and convolutions padded otherwise than with zeros are left alone. Without oneDNN in this
            build of torch nothing changes.
    """
    if not torch.backends.mkldnn.is_available():
        return
    for module in network.modules():
        kind = REPLACED.get(type(module))
        if kind is not None and _pads_with_zeros(module):
            module.__class__ = kind


def _wants_gradient(input: Tensor, weight: Tensor) -> bool:
    return torch.is_grad_enabled() and (input.requires_grad or weight.requires_grad)


def _pads_with_zeros(module: nn.Module) -> bool:
    return not isinstance(module, nn.Conv2d) or (
        module.padding_mode == "zeros" and not isinstance(module.padding, str)
    )
