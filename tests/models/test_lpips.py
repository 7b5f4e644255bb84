"""LPIPS equals the package lpips, for all three backbones."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from pipeline.models.lpips import Lpips
from tests.samples import pixels
from tests.tiny_scorers import lpips_weights

# From lpips.LPIPS (0.1.4) in float64 with these weights, with backbones made of torchvision's
# layers, for the images of ``images()``. With the package's own calibrated heads instead of random
# ones the two agreed too, to 1e-8.
GOLDEN = {
    "alex": [0.022993250888325704, 0.02091585855504716],
    "squeeze": [0.023462540374432555, 0.020076002259087858],
    "vgg": [0.012126825984114535, 0.012526396953015953],
}


def images(*seeds: int) -> Tensor:
    images = np.stack([pixels(seed, 64, 64) for seed in seeds])
    return torch.from_numpy(images).permute(0, 3, 1, 2).float() / 127.5 - 1


@pytest.mark.parametrize("net", GOLDEN)
@torch.inference_mode()
def test_distances_equal_those_of_the_package(net: str) -> None:
    """Seeded weights and images give the golden distances, equal images 0, in any order."""
    network = Lpips(net, lpips_weights(net))
    before, after = images(1, 2), images(3, 4)
    assert network(before, after).tolist() == pytest.approx(GOLDEN[net], abs=1e-7)
    assert network(before, before).tolist() == [0.0, 0.0]
    swapped = network(after.flip(0), before.flip(0)).tolist()
    assert swapped == pytest.approx(GOLDEN[net][::-1], abs=1e-7)


def test_wrong_weights_are_named() -> None:
    """A missing tensor, and the heads of another backbone, are errors that name the tensor."""
    weights = lpips_weights("alex")
    heads = {name: data for name, data in weights.items() if name.startswith("lin")}
    with pytest.raises(
        ValueError, match=r"features.0.weight is missing; \(64, 3, 11, 11\) is needed"
    ):
        Lpips("alex", heads)
    with pytest.raises(ValueError, match=r"lin1.model.1.weight is .*; \(1, 192, 1, 1\) is needed"):
        Lpips("alex", weights | {"lin1.model.1.weight": torch.zeros(1, 128, 1, 1)})
