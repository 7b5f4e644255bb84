"""Layers computed by oneDNN on a CPU give torch's results and gradients."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from pipeline.config.model import Model
from pipeline.config.stages import Stage
from pipeline.diffusion.schedule import Level
from pipeline.models.cpu_kernels import OneDnnConv2d, OneDnnLinear, use_onednn
from pipeline.models.loading import LatentDiffusion, load_model

LEVEL = Level(20, 381, 0.6, 0.8)


class OperatorNames(TorchDispatchMode):
    """Records the operators that are called inside the context."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: set[str] = set()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.seen.add(func.name())
        return func(*args, **kwargs or {})


def torchs_own(network: nn.Module) -> nn.Module:
    """A copy of a network with torch's own layers."""
    own = {OneDnnLinear: nn.Linear, OneDnnConv2d: nn.Conv2d}
    plain = copy.deepcopy(network)
    for module in plain.modules():
        if type(module) in own:
            module.__class__ = own[type(module)]
    return plain


@pytest.mark.parametrize("num_rows", [1, 3, 17])
def test_unet_equals_torchs_own_layers(
    tiny_model: LatentDiffusion, tolerance: dict, generator: torch.Generator, num_rows: int
) -> None:
    """At batch sizes for which torch has different kernels, and no layer uses MKL."""
    unet = tiny_model.unbatched.network
    latent = torch.randn(num_rows, 4, 8, 8, generator=generator)
    latent = latent.to(memory_format=torch.channels_last)
    with torch.inference_mode():
        tokens = tiny_model.text.encode(["a dog"] * num_rows).tokens
        with OperatorNames() as names:
            ours = unet(latent, LEVEL.timestep, tokens, return_dict=False)[0]
        plain = torchs_own(unet)(latent, LEVEL.timestep, tokens, return_dict=False)[0]
    assert float((ours - plain).abs().max() / plain.abs().max()) < tolerance[torch.float32]
    assert "mkldnn::_linear_pointwise" in names.seen
    assert not {"aten::addmm", "aten::mm", "aten::_slow_conv2d_forward"} & names.seen


def test_vae_equals_torchs_own_layers(
    tiny_model: LatentDiffusion, tolerance: dict, generator: torch.Generator
) -> None:
    """The VAE has convolutions with asymmetric padding, strides and 1 x 1 kernels."""
    vae = tiny_model.image_coder.vae
    pixels = torch.rand(2, 3, 32, 32, generator=generator)
    with torch.inference_mode():
        for name, network, call in (
            ("encoder", vae, lambda network: network.encode(pixels).latent_dist.mode()),
            ("decoder", vae, lambda network: network.decode(pixels[:, :1].expand(2, 4, 32, 32))[0]),
        ):
            ours, plain = call(network), call(torchs_own(network))
            error = float((ours - plain).abs().max() / plain.abs().max())
            assert error < tolerance[torch.float32], name


def test_gradients_are_torchs_own(generator: torch.Generator) -> None:
    """If gradients are needed, torch's own differentiable kernels are used."""
    network = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.Flatten(), nn.Linear(64, 2))
    plain = copy.deepcopy(network)
    use_onednn(network)
    assert [type(module) for module in network] == [OneDnnConv2d, nn.Flatten, OneDnnLinear]
    image = torch.randn(2, 3, 4, 4, generator=generator)
    for model in (network, plain):
        model(image).square().sum().backward()
    for ours, theirs in zip(network.parameters(), plain.parameters(), strict=True):
        assert ours.grad is not None
        assert theirs.grad is not None
        assert torch.equal(ours.grad, theirs.grad)


def test_other_layers_are_not_replaced() -> None:
    """Subclasses and other paddings compute something else, so they are kept."""

    class Scaled(nn.Linear):
        pass

    network = nn.Sequential(Scaled(2, 2), nn.Conv2d(1, 1, 3, padding=1, padding_mode="circular"))
    use_onednn(network)
    assert [type(module) for module in network] == [Scaled, nn.Conv2d]


@pytest.mark.parametrize(("dtype", "compiles"), [("bfloat16", "off"), ("float32", "default")])
def test_half_precision_and_compiled_networks_are_not_changed(
    tiny_model_folder: Path, monkeypatch: pytest.MonkeyPatch, dtype: str, compiles: str
) -> None:
    """torch uses oneDNN for half precision by itself, and the compiler fuses torch's layers."""
    monkeypatch.setattr("pipeline.models.loading.compile_network", lambda *_: None)
    settings = Model(path=str(tiny_model_folder), dtype=dtype, compile=compiles)
    network = load_model(settings, "cpu", Stage()).unbatched.network
    assert not any(isinstance(module, OneDnnLinear | OneDnnConv2d) for module in network.modules())
