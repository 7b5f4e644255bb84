"""A small network that reads from an image which objects and which background it shows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from safetensors.torch import load_file
from torch import Tensor, nn

from pipeline.demo.backgrounds import BACKGROUNDS
from pipeline.demo.edits import Edit
from pipeline.demo.shapes import SHAPES
from pipeline.demo.world import COLORS, NATIVE_SIZE, Scene

# N images, H W pixels, K kinds of objects (color x shape), B backgrounds.
WEIGHTS = Path(__file__).with_name("readback.safetensors")
OBJECT_KINDS = tuple((color, shape) for color in COLORS for shape in SHAPES)
BACKGROUND_NAMES = tuple(BACKGROUNDS)
# Images are read at half size: shapes are still clear, at a quarter of the cost.
READING_SIZE = NATIVE_SIZE // 2
_CHANNELS = (32, 64, 96)
# Sharpness of the soft maximum over positions: high enough that a single position decides.
_SHARPNESS = 2.0


@dataclass(frozen=True)
class Reading:
    """The content of an image: a background's name, and (color, shape) of each object."""

    background: str
    objects: frozenset[tuple[str, str]]


def reading_of(scene: Scene) -> Reading:
    """The correct reading of a scene."""
    return Reading(scene.background, frozenset((item.color, item.shape) for item in scene.objects))


def confirms_edit(reading: Reading, edit: Edit) -> bool:
    """Whether the image shows what the edit changed: its objects, and its background if changed."""
    wanted = {
        (edit.target.objects[number].color, edit.target.objects[number].shape)
        for number in edit.changed
    }
    background = not edit.background_changed or reading.background == edit.target.background
    return background and wanted <= reading.objects


def confirms_rest(reading: Reading, edit: Edit) -> bool:
    """Whether the image still shows what the edit did not change."""
    target = reading_of(edit.target)
    changed = {
        (edit.target.objects[number].color, edit.target.objects[number].shape)
        for number in edit.changed
    }
    background = edit.background_changed or reading.background == target.background
    return background and target.objects - changed <= reading.objects


class SceneReader(nn.Module):
    """A small convolutional network that detects every kind of object at every position."""

    def __init__(self) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for before, after in zip((3, *_CHANNELS[:-1]), _CHANNELS, strict=True):
            layers += [
                nn.Conv2d(before, after, 3, stride=2, padding=1),
                nn.GroupNorm(8, after),
                nn.ReLU(),
                nn.Conv2d(after, after, 3, padding=1),
                nn.ReLU(),
            ]
        self.body = nn.Sequential(*layers)
        self.place = nn.Sequential(
            nn.Conv2d(_CHANNELS[-1], 128, 3, padding=1), nn.ReLU(), nn.Conv2d(128, 64, 1), nn.ReLU()
        )
        self.objects = nn.Conv2d(64, len(OBJECT_KINDS), 1)
        assert self.objects.bias is not None
        self.objects.bias.data.fill_(-5.0)  # most kinds are absent at most positions
        self.background = nn.Linear(_CHANNELS[-1], len(BACKGROUND_NAMES))

    def look(self, images_N3HW: Tensor) -> tuple[Tensor, Tensor]:
        """Images in [-1, 1] -> logits of each kind per position (N, K, 8, 8), background (N, B).

        Images are float32, with a side of 64 pixels or a multiple, which is averaged down.
        """
        factor = images_N3HW.shape[-1] // READING_SIZE
        features = self.body(F.avg_pool2d(images_N3HW, factor) if factor > 1 else images_N3HW)
        logits_NKhw = self.objects(self.place(features)).float()
        return logits_NKhw, self.background(features.float().mean((2, 3)))

    def forward(self, images_N3HW: Tensor) -> tuple[Tensor, Tensor]:
        """Images in [-1, 1] -> presence logits (N, K), background logits (N, B), float32."""
        logits_NKhw, background_NB = self.look(images_N3HW)
        return presence(logits_NKhw), background_NB


def presence(logits_NKhw: Tensor) -> Tensor:
    """Logits, (N, K), that a kind is anywhere in the image: a soft maximum over positions."""
    return torch.logsumexp(_SHARPNESS * logits_NKhw.flatten(2), 2) / _SHARPNESS


def load_reader() -> SceneReader:
    """Load the trained reader from the file beside this module.

    Raises:
        FileNotFoundError: the weights are missing.
    """
    reader = SceneReader()
    reader.load_state_dict({name: tensor.float() for name, tensor in load_file(WEIGHTS).items()})
    return reader.eval()


@torch.no_grad()
def read_images(
    reader: SceneReader, images: Sequence[NDArray[np.uint8]] | NDArray[np.uint8]
) -> list[Reading]:
    """Read images of the native size.

    Args:
        images: (N, 128, 128, 3) uint8 RGB.

    Raises:
        ValueError: the images have another size or dtype.
    """
    pixels_NHW3 = np.asarray(images)
    if pixels_NHW3.dtype != np.uint8 or pixels_NHW3.shape[1:] != (NATIVE_SIZE, NATIVE_SIZE, 3):
        raise ValueError(
            f"images: got {pixels_NHW3.dtype} {pixels_NHW3.shape}, must be uint8 (N, 128, 128, 3)"
        )
    readings = []
    for batch_NHW3 in torch.split(torch.from_numpy(pixels_NHW3), 64):
        presence_NK, background_NB = reader(batch_NHW3.permute(0, 3, 1, 2).float() / 127.5 - 1)
        for present_K, name in zip(presence_NK > 0, background_NB.argmax(1).tolist(), strict=True):
            found = frozenset(OBJECT_KINDS[kind] for kind in present_K.nonzero().flatten().tolist())
            readings.append(Reading(BACKGROUND_NAMES[name], found))
    return readings
