"""A small classifier of demo-world images; its accuracy measures a training set."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

# N images, H W pixels, K classes.
SEEN_SIZE = 32  # side of the network's input in pixels; colors are as clear as at 128
_CHANNELS = (16, 32, 64)
_SHIFT = 3  # largest shift in pixels of SEEN_SIZE
_JITTER = 0.2  # largest relative change of brightness, contrast and saturation
_GREY = (0.299, 0.587, 0.114)  # ITU-R BT.601
_BATCH = 256  # images at once, outside of training

Augment = Callable[[Tensor, torch.Generator], Tensor]


@dataclass(frozen=True)
class Settings:
    """How a classifier is trained."""

    steps: int
    batch_size: int
    learning_rate: float  # the peak of one cycle


def as_input(images_NHW3: NDArray[np.uint8]) -> Tensor:
    """Scales images down to (N, 3, 32, 32) float32 in [0, 1]; SEEN_SIZE must divide their side."""
    parts = [
        F.avg_pool2d(part.permute(0, 3, 1, 2).float() / 255, part.shape[1] // SEEN_SIZE)
        for part in torch.split(torch.from_numpy(images_NHW3), _BATCH)
    ]
    return torch.cat(parts)


def network(num_classes: int) -> nn.Module:
    """Three convolutions, a mean over positions, a linear layer: about 24,000 weights."""
    layers: list[nn.Module] = []
    for before, after in zip((3, *_CHANNELS[:-1]), _CHANNELS, strict=True):
        layers += [
            nn.Conv2d(before, after, 3, stride=2, padding=1),
            nn.GroupNorm(4, after),
            nn.ReLU(),
        ]
    head = (nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(_CHANNELS[-1], num_classes))
    return nn.Sequential(*layers, *head)


@contextmanager
def one_thread() -> Iterator[None]:
    """Makes torch compute in one thread.

    More threads do not speed up so small a network, and slow it down on shared cores. One thread
    also gives the same bits on a machine with any number of cores.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@one_thread()
def train_classifier(
    inputs_N3HW: Tensor,
    labels_N: Tensor,
    num_classes: int,
    settings: Settings,
    *,
    seed: int,
    augment: Augment | None = None,
) -> nn.Module:
    """Trains with AdamW on batches drawn with replacement.

    Args:
        inputs_N3HW: float32 in [0, 1].
        labels_N: int64, 0 to num_classes - 1.
        seed: of the initial weights and of the batches; the global generator is not used.
        augment: applied to each batch.

    Returns:
        The network, in evaluation mode.
    """
    generator = torch.Generator().manual_seed(seed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = network(num_classes)
    optimizer = torch.optim.AdamW(model.parameters(), settings.learning_rate)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, settings.learning_rate, settings.steps
    )
    for _ in range(settings.steps):
        drawn = torch.randint(len(inputs_N3HW), (settings.batch_size,), generator=generator)
        batch = inputs_N3HW[drawn]
        if augment is not None:
            batch = augment(batch, generator)
        loss = F.cross_entropy(model(2 * batch - 1), labels_N[drawn])
        optimizer.zero_grad()
        torch.autograd.backward(loss)
        optimizer.step()
        schedule.step()
    return model.eval()


@one_thread()
@torch.inference_mode()
def predictions(model: nn.Module, inputs_N3HW: Tensor) -> NDArray[np.int64]:
    """Predicts the class of each image: (N,) int64."""
    parts = torch.split(inputs_N3HW, _BATCH)
    return torch.cat([model(2 * part - 1).argmax(1) for part in parts]).numpy()


def classical(images_N3HW: Tensor, generator: torch.Generator) -> Tensor:
    """Random flips, shifts, and changes of brightness, contrast and saturation.

    The hue is not changed, since the color is the class.

    Args:
        images_N3HW: float32 in [0, 1].
        generator: on the CPU.

    Returns:
        Same shape and range; each image has its own random changes.
    """
    count, _, side, _ = images_N3HW.shape

    def drawn(low: float, high: float) -> Tensor:
        return low + (high - low) * torch.rand(count, 1, 1, 1, generator=generator)

    flipped = torch.where(drawn(0, 1) < 0.5, images_N3HW, images_N3HW.flip(3))
    padded = F.pad(flipped, (_SHIFT,) * 4, mode="reflect")
    places = torch.randint(2 * _SHIFT + 1, (count, 2), generator=generator).tolist()
    pairs = zip(padded, places, strict=True)
    shifted = torch.stack([image[:, y : y + side, x : x + side] for image, (y, x) in pairs])
    low, high = 1 - _JITTER, 1 + _JITTER
    grey = (shifted * torch.tensor(_GREY).view(1, 3, 1, 1)).sum(1, keepdim=True)
    saturated = grey + drawn(low, high) * (shifted - grey)
    mean = grey.mean((2, 3), keepdim=True)
    return (drawn(low, high) * (mean + drawn(low, high) * (saturated - mean))).clamp(0, 1)
