"""Makes parts of prepared images, ready for the mask stage, and runs stages over them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from pipeline.config.config import Config
from pipeline.config.stages import STAGES
from pipeline.models.loading import LatentDiffusion
from pipeline.records.part import Edit, Part, Sample
from pipeline.stages.build import build_stage


def make_prepared(number: int, *edit_texts: str, caption: str = "a dog", size: int = 32) -> Sample:
    """An image of noise that its number alone decides; key ``k<number>``."""
    image = np.random.default_rng(number).integers(0, 256, (size, size, 3), dtype=np.uint8)
    edits = [Edit(index, text) for index, text in enumerate(edit_texts or ("a cat",))]
    return Sample(key=f"k{number}", caption=caption, image=image, edits=edits)


def make_part(*samples: Sample) -> Part:
    return Part("shard", 0, 1, list(samples))


def make_config(**method: Any) -> Config:
    """A configuration with the method given; few steps unless it says otherwise."""
    tree = {"steps": 5, "mask": {"num_noises": 2}} | method
    return Config.model_validate(
        {"input": {"shards": "in"}, "output": {"path": "out"}, "method": tree}
    )


def run_stages(
    model: LatentDiffusion, part: Part, config: Config, stages: Sequence[str] = STAGES
) -> Part:
    """The part after these stages over the model."""
    for name in stages:
        part = build_stage(config, name, model)(part)
    return part


def encoded_part(model: LatentDiffusion, config: Config, *samples: Sample) -> Part:
    """A part of these images, masked and encoded."""
    return run_stages(model, make_part(*samples), config, ["mask", "encode"])


def decoded_latents(model: LatentDiffusion, part: Part, config: Config) -> torch.Tensor:
    """The decode stage's latents, caught on their way to the VAE: (N, C, h, w)."""
    caught = []

    class Catching:
        def decode_each(self, latents: torch.Tensor) -> list[np.ndarray | None]:
            caught.append(latents)
            return model.image_coder.decode_each(latents)

    run_stages(replace(model, image_coder=Catching()), part, config, ["decode"])  # type: ignore[arg-type]
    return torch.cat(caught)


@contextmanager
def counted(model: LatentDiffusion) -> Iterator[list[int]]:
    """The rows of every call of the network itself."""
    rows: list[int] = []
    unet = model.unbatched.unet  # type: ignore[attr-defined]
    hook = unet.register_forward_pre_hook(lambda module, args: rows.append(len(args[0])))
    try:
        yield rows
    finally:
        hook.remove()
