"""Makes parts of prepared pictures, ready for the mask stage, and runs stages over them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from pipeline.methods import STAGES, build_stage
from pipeline.models.loading import LatentDiffusion
from pipeline.words.config import Config
from pipeline.words.records import Edit, Part, Picture


def make_picture(number: int, *edit_texts: str, caption: str = "a dog", size: int = 32) -> Picture:
    """A picture of noise that its number alone decides; key ``k<number>``."""
    image = np.random.default_rng(number).integers(0, 256, (size, size, 3), dtype=np.uint8)
    edits = [Edit(index, text) for index, text in enumerate(edit_texts or ("a cat",))]
    return Picture(key=f"k{number}", caption=caption, image=image, edits=edits)


def make_part(*pictures: Picture) -> Part:
    return Part("shard", 0, 1, list(pictures))


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
