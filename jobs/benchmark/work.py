"""The work of a benchmark: images of the demo world with one or several edits each, as parts."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from pipeline.demo.edits import draw_edit, sample_edit
from pipeline.demo.samples import image_bytes, write_shard
from pipeline.demo.trouble import FOUR_KINDS
from pipeline.demo.world import paint
from pipeline.records.part import Edit, Part, Sample

SHARD = "benchmark"


@dataclass(frozen=True)
class BenchmarkSample:
    """An image, (H, W, 3) uint8, with its caption and its edit texts."""

    key: str
    image: np.ndarray
    caption: str
    edit_texts: tuple[str, ...]


def draw_samples(num_images: int, edits_per_image: int, size: int) -> list[BenchmarkSample]:
    """Held-out scenes, size x size pixels, with edits of all kinds in turn. Deterministic."""
    samples: list[BenchmarkSample] = []
    number = 0
    while len(samples) < num_images:
        edit = sample_edit(0, "heldout", number)
        rng = np.random.default_rng([0, number])
        kinds = [FOUR_KINDS[place % len(FOUR_KINDS)] for place in range(1, edits_per_image)]
        number += 1
        try:
            edits = [edit, *(draw_edit(rng, edit.source, kind) for kind in kinds)]
        except ValueError:  # rare: the scene allows no edit of this kind
            continue
        texts = tuple(dict.fromkeys(each.edit_text for each in edits))
        if len(texts) == edits_per_image:  # edits with the same text would share one mask
            samples.append(
                BenchmarkSample(f"{number:06d}", paint(edit.source, size), edit.caption, texts)
            )
    return samples


def parts_of(samples: Iterable[BenchmarkSample], part_size: int) -> list[Part]:
    """Prepared parts, as input of the mask stage. All edits of an image are in one part."""
    parts: list[Part] = []
    for sample in samples:
        if not parts or len(parts[-1].edits) + len(sample.edit_texts) > part_size:
            parts.append(Part(SHARD, len(parts), 0))
        edits = [Edit(index, text) for index, text in enumerate(sample.edit_texts)]
        prepared = Sample(sample.key, sample.caption, image=sample.image, edits=edits)
        parts[-1].samples.append(prepared)
    for part in parts:
        part.num_parts = len(parts)
    return parts


def write_input(path: Path, samples: Iterable[BenchmarkSample]) -> None:
    """Writes the same work as one input shard, for the whole job."""
    members = (
        {
            "__key__": sample.key,
            "jpg": image_bytes(Image.fromarray(sample.image), "JPEG", quality=95),
            "txt": sample.caption.encode(),
            "edit.txt": "\n".join(sample.edit_texts).encode(),
        }
        for sample in samples
    )
    write_shard(path, members)
