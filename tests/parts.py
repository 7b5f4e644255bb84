"""Makes parts with prepared images, ready for the mask stage, and runs stages on them."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, TypeVar

import numpy as np
import torch

from pipeline.config.config import Config
from pipeline.config.stages import STAGES
from pipeline.models.loading import LatentDiffusion
from pipeline.records.part import Edit, Part, Sample
from pipeline.stages.build import build_stage, load_stages
from tests.packed import from_bytes, to_bytes

Value = TypeVar("Value")


def required(value: Value | None) -> Value:
    """A field of a sample or an edit that a stage must have set."""
    assert value is not None
    return value


def make_prepared(number: int, *edit_texts: str, caption: str = "a dog", size: int = 32) -> Sample:
    """A prepared sample with key ``k<number>`` and an image of noise seeded by the number."""
    image = np.random.default_rng(number).integers(0, 256, (size, size, 3), dtype=np.uint8)
    edits = [Edit(index, text) for index, text in enumerate(edit_texts or ("a cat",))]
    return Sample(key=f"k{number}", caption=caption, image=image, edits=edits)


def make_part(*samples: Sample) -> Part:
    return Part("shard", 0, 1, list(samples))


def make_config(**method: Any) -> Config:
    """A configuration with these settings of the method; few steps by default."""
    tree = {"steps": 5, "mask": {"num_noises": 2}} | method
    return Config.model_validate(
        {"input": {"shards": "in"}, "output": {"path": "out"}, "method": tree}
    )


def run_stages(
    model: LatentDiffusion, part: Part, config: Config, stages: Sequence[str] = STAGES
) -> Part:
    """Runs stages on a part and returns it."""
    for name in stages:
        part = build_stage(config, name, model)(part)
    return part


def same_in_pools_and_fused(config: Config, part: Part) -> Part:
    """The part after all stages over one network.

    Asserts that stages with networks of their own, to which it goes as bytes, give the same bytes.
    """
    pooled = copy.deepcopy(part)
    for stage in load_stages(config, "fused", "cpu").values():
        part = stage(part)
    for pool in config.pools:
        pooled = from_bytes(to_bytes(pooled))
        for stage in load_stages(config, pool, "cpu").values():
            pooled = stage(pooled)
    assert to_bytes(part) == to_bytes(pooled)
    return part


def encoded_part(model: LatentDiffusion, config: Config, *samples: Sample) -> Part:
    """A part of these samples, after the stages mask and encode."""
    return run_stages(model, make_part(*samples), config, ["mask", "encode"])


def decoded_latents(model: LatentDiffusion, part: Part, config: Config) -> torch.Tensor:
    """Runs the decode stage; returns the latents that it passes to the VAE: (N, C, h, w)."""
    seen = []

    class RecordingCoder:
        def decode_each(self, latents: torch.Tensor) -> list[np.ndarray | None]:
            seen.append(latents)
            return model.image_coder.decode_each(latents)

    run_stages(replace(model, image_coder=RecordingCoder()), part, config, ["decode"])  # type: ignore[arg-type]
    return torch.cat(seen)


@contextmanager
def counted(model: LatentDiffusion) -> Iterator[list[int]]:
    """Records the number of rows of every call of the network."""
    rows: list[int] = []
    network = model.unbatched.network
    hook = network.register_forward_pre_hook(lambda module, args: rows.append(len(args[0])))
    try:
        yield rows
    finally:
        hook.remove()
