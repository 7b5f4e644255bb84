"""Makes float32 layers on a CPU use oneDNN where torch would use MKL.

torch computes linear layers with MKL, and small single-threaded convolutions with a loop around
MKL. On AMD processors MKL's float32 product is less than half as fast as oneDNN's, which torch
uses for its other convolutions anyway (one core of a fifth-generation EPYC: 103 against 245
GFLOP/s). In half precision torch uses oneDNN by itself.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn


class OneDnnLinear(nn.Linear):
    """``nn.Linear`` computed by oneDNN, or by torch's own kernel when a gradient is needed."""

    def forward(self, input: Tensor) -> Tensor:
        if _wants_gradient(input, self.weight):  # the operator has no derivative
            return super().forward(input)
        linear = torch.ops.mkldnn._linear_pointwise  # the operator that torch's inductor calls
        output: Tensor = linear(input, self.weight, self.bias, "none", [], "")
        return output


class OneDnnConv2d(nn.Conv2d):
    """``nn.Conv2d`` computed by oneDNN, or as torch chooses when a gradient is needed."""

    def forward(self, input: Tensor) -> Tensor:
        if _wants_gradient(input, self.weight):
            return super().forward(input)
        assert not isinstance(self.padding, str), "use_onednn does not replace such layers"
        return torch.mkldnn_convolution(
            input, self.weight, self.bias, self.padding, self.stride, self.dilation, self.groups
        )


REPLACED: dict[type[nn.Module], type[nn.Module]] = {
    nn.Linear: OneDnnLinear,
    nn.Conv2d: OneDnnConv2d,
}


def use_onednn(network: nn.Module) -> None:
    """Replaces, in place, how a network's layers are computed; the weights are not touched.

    Args:
        network: on a CPU, float32, not to be compiled. Subclasses of torch's layers and
            convolutions with other than zero padding are not replaced. If this build of torch has
            no oneDNN, nothing changes.
    """
    if not torch.backends.mkldnn.is_available():  # type: ignore[no-untyped-call]  # torch's own
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
