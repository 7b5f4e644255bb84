"""Stage `classifier`: trains the scene reader, which names what a demo image shows."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import Tensor

from jobs.train_demo.loop import device_of, train, worker
from jobs.train_demo.progress import StageSettings
from pipeline.demo.readback import (
    BACKGROUND_NAMES,
    OBJECT_KINDS,
    READING_SIZE,
    WEIGHTS,
    SceneReader,
    presence,
    read_images,
    reading_of,
)
from pipeline.demo.world import Scene, paint, sample_scene


def _labels(scenes: list[Scene]) -> tuple[Tensor, Tensor]:
    """(presence of each kind (N, K) float32 in {0, 1}, numbers of the backgrounds (N,) int64)."""
    present = torch.zeros(len(scenes), len(OBJECT_KINDS))
    for row, scene in enumerate(scenes):
        for pair in reading_of(scene).objects:
            present[row, OBJECT_KINDS.index(pair)] = 1
    return present, torch.tensor([BACKGROUND_NAMES.index(scene.background) for scene in scenes])


def _naming_loss(logits_NKhw: Tensor, scenes: list[Scene]) -> Tensor:
    """Cross-entropy over kinds, at the cell of each object's center."""
    side = logits_NKhw.shape[-1]
    rows, places, kinds = [], [], []
    for row, scene in enumerate(scenes):
        for item in scene.objects:
            rows.append(row)
            places.append(int(item.y * side) * side + int(item.x * side))
            kinds.append(OBJECT_KINDS.index((item.color, item.shape)))
    logits_MK = logits_NKhw.flatten(2)[torch.tensor(rows), :, torch.tensor(places)]
    return F.cross_entropy(logits_MK, torch.tensor(kinds, device=logits_MK.device))


def _disturb(images: Tensor, generator: torch.Generator) -> Tensor:
    """Adds errors that a decoder may make: a little blur, noise, and a shift of brightness."""
    count = len(images)
    blurred = F.avg_pool2d(F.pad(images, (1, 1, 1, 1), mode="replicate"), 3, stride=1)
    share = 0.5 * torch.rand(count, 1, 1, 1, generator=generator)
    shift = 0.06 * torch.randn(count, 3, 1, 1, generator=generator)
    noise = (
        0.06
        * torch.rand(count, 1, 1, 1, generator=generator)
        * torch.randn(images.shape, generator=generator)
    )
    return (images + share * (blurred - images) + shift + noise).clamp(-1, 1)


def train_classifier(settings: dict[str, Any], folder: Path, *, device: str, resume: bool) -> None:
    """Trains on scenes in low resolution; writes `folder`/readback.safetensors."""
    stage = StageSettings.from_mapping(settings)
    torch.manual_seed(stage.seed)
    reader = SceneReader().to(device)
    rank, world = worker()
    share = stage.batch_size // world

    def losses_at(step: int, fraction: float, generator: torch.Generator) -> dict[str, Tensor]:
        first = (step * world + rank) * share
        scenes = [sample_scene(stage.seed, "train", first + number) for number in range(share)]
        pixels = np.stack([paint(scene, READING_SIZE) for scene in scenes])
        images = _disturb(torch.from_numpy(pixels).permute(0, 3, 1, 2) / 127.5 - 1, generator)
        present, backgrounds = (labels.to(device) for labels in _labels(scenes))
        logits_NKhw, background_logits = reader.look(images.to(device))
        found = F.binary_cross_entropy_with_logits(presence(logits_NKhw), present)
        # The places of objects speed up learning: the sum over places alone has little gradient.
        named = _naming_loss(logits_NKhw, scenes)
        ground = F.cross_entropy(background_logits, backgrounds)
        loss = found * len(OBJECT_KINDS) + 2 * named + ground
        return {"loss": loss, "objects": found, "naming": named, "backgrounds": ground}

    def show(network: torch.nn.Module, step: int) -> None:
        share = accuracy(reader, settings["checked_scenes"])
        print(f"held-out accuracy at step {step}: {share:.4f}", flush=True)

    train(reader, losses_at, stage, folder / "classifier", resume=resume, after_checkpoint=show)
    if rank == 0:
        halves = {
            name: tensor.half().contiguous().cpu() for name, tensor in reader.state_dict().items()
        }
        save_file(halves, folder / WEIGHTS.name)
        print(f"held-out accuracy {accuracy(reader.cpu(), settings['checked_scenes']):.4f}")


def accuracy(reader: SceneReader, count: int) -> float:
    """The share of held-out scenes of which the background and all objects are read correctly."""
    scenes = [sample_scene(0, "heldout", number) for number in range(count)]
    device = device_of(reader)
    readings = read_images(reader.cpu().eval(), np.stack([paint(scene) for scene in scenes]))
    reader.to(device).train()
    return (
        sum(reading == reading_of(scene) for reading, scene in zip(readings, scenes, strict=True))
        / count
    )
