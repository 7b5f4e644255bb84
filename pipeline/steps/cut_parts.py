"""Cuts the samples of a shard into parts."""

from __future__ import annotations

from dataclasses import replace

from pipeline.config.input import Input
from pipeline.images.files import shape_of
from pipeline.records.part import Sample
from pipeline.steps.limits import MAX_PART_BYTES


def plan_parts(samples: list[Sample], part_size: int) -> list[list[Sample]]:
    """Cuts a shard's samples into parts of at most ``part_size`` edits; at least one part.

    A part closes before a sample whose edits would not fit, by number or (rarely) by bytes. Only a
    sample with more edits than a part holds is split; its pieces share the encoded image.
    """
    parts: list[list[Sample]] = [[]]
    room, bytes_left = part_size, MAX_PART_BYTES
    for sample in samples:
        for start in range(0, len(sample.edits), part_size):
            piece = sample.edits[start : start + part_size]
            size = _part_bytes(sample, len(piece))
            # a whole image, or a piece that fills a part by itself
            if parts[-1] and (len(piece) > room or size > bytes_left):
                parts.append([])
                room, bytes_left = part_size, MAX_PART_BYTES
            parts[-1].append(replace(sample, edits=piece))
            room, bytes_left = room - len(piece), bytes_left - size
    return parts


def _part_bytes(sample: Sample, num_edits: int) -> int:
    """What a sample adds to a part: its image, and what is copied for each edit."""
    copied = sum(len(data) for data in sample.extras.values())
    return len(sample.encoded or b"") + copied * num_edits


def by_shape(samples: list[Sample], config: Input) -> list[Sample]:
    """The samples sorted by width over height; those of one shape, and of none, stay in order."""
    return sorted(
        samples, key=lambda sample: shape_of(bytes(sample.encoded or b""), suffixes=config.image)
    )


def first_edits(samples: list[Sample], max_edits: int | None) -> list[Sample]:
    """The first samples with at most so many edits in total; the last one may lose some."""
    if max_edits is None:
        return samples
    taken, left = [], max_edits
    for sample in samples:
        if left <= 0:
            break
        taken.append(replace(sample, edits=sample.edits[:left]))
        left -= len(sample.edits)
    return taken
