"""FID's Inception equals torchvision's with pytorch-fid's changes; start-up checks its weights."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from pipeline.models.inception import Inception, check_inception, load_inception
from tests.samples import pixels
from tests.tiny_inception import inception_weights

# Every 120th feature of torchvision 0.28.0's Inception3 (num_classes=1008, aux_logits=False) in
# float64, with the weights of ``inception_weights()`` loaded by name, for the two images below. Its
# blocks have pytorch-fid's changes: the average pools of Mixed_5b to 7b have
# count_include_pad=False, and that of Mixed_7c is a maximum. Images are scaled by torch, bilinear,
# with align_corners off.
GOLDEN = [
    *(0.685296668, 0.0708409, 0.004287039, 0.093190109, 0.898800548, 0.030524796),
    *(2.84958881, 0.101029422, 0.072735876, 0.035789555, 0.249216958, 1.252718847),
    *(0.175928538, 0.154267374, 0.001221839, 0.01812193, 0.0, 0.331465795),
    *(0.412843291, 0.059220895, 0.001519233, 0.036756936, 0.784866034, 0.042604163),
    *(2.303784487, 0.064600172, 0.046947241, 0.017904806, 0.16589754, 1.043590416),
    *(0.146042359, 0.130541331, 0.0, 0.009905712, 0.0, 0.155659436),
]


def images() -> list[np.ndarray]:
    return [pixels(1, 64, 64), pixels(2, 64, 64)]


def test_features_are_those_of_the_fid_network() -> None:
    """Seeded weights at the real width and seeded images give the golden features."""
    features = Inception(inception_weights()).features(images())
    assert features.shape == (2, 2048)
    assert features[:, ::120].flatten().tolist() == pytest.approx(GOLDEN, abs=1e-5)


def test_features_ignore_neighbors_and_micro_batch() -> None:
    """An image has the same features alone, with a neighbor, and in another micro-batch size."""
    weights = inception_weights(narrower=16)
    one, many = (Inception(weights, micro_batch=size) for size in (1, 8))
    first, second = images()
    alone = one.features([first])
    assert one.features([first, second])[0] == pytest.approx(alone[0], rel=1e-5, abs=1e-6)
    assert many.features([second, first])[1] == pytest.approx(alone[0], rel=1e-5, abs=1e-6)


def test_weights_are_read_from_safetensors(tmp_path: Path) -> None:
    """A file with further tensors, such as the real file's classifier, gives the same features."""
    weights = inception_weights(narrower=16)
    save_file(weights | {"fc.weight": torch.zeros(4, 128)}, tmp_path / "inception.safetensors")
    network = load_inception(str(tmp_path / "inception.safetensors"), "cpu")
    assert np.array_equal(network.features(images()), Inception(weights).features(images()))


def test_wrong_weights_are_errors_that_say_where_to_get_them(tmp_path: Path) -> None:
    """No file, a pickle, a broken file, a missing layer, layers that do not fit together."""
    with pytest.raises(FileNotFoundError, match="no such file; it takes pt_inception-2015-12-05"):
        check_inception(str(tmp_path / "gone.safetensors"))
    (tmp_path / "fid.pth").write_bytes(b"pickle")
    with pytest.raises(ValueError, match="allowed is safetensors; it takes pt_inception"):
        check_inception(str(tmp_path / "fid.pth"))
    (tmp_path / "no.safetensors").write_bytes(b"nothing")
    with pytest.raises(ValueError, match="not safetensors"):
        check_inception(str(tmp_path / "no.safetensors"))
    weights = inception_weights(narrower=16)
    cases = {
        "Mixed_6e.branch_pool.conv.weight": (None, "is missing; a kernel of 1 x 1 is needed"),
        "Mixed_7b.branch1x1.bn.running_var": (torch.ones(3), r"is \(3,\); \(20,\) is needed"),
        "Conv2d_2a_3x3.conv.weight": (torch.ones(2, 5, 3, 3), "do not fit together"),
    }
    for name, (tensor, message) in cases.items():
        changed = {key: value for key, value in weights.items() if key != name}
        save_file(changed | ({} if tensor is None else {name: tensor}), tmp_path / "w.safetensors")
        with pytest.raises(ValueError, match=message):
            check_inception(str(tmp_path / "w.safetensors"))
