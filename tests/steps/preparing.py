"""Samples that go through the step prepare, for its tests."""

from __future__ import annotations

import io
from dataclasses import replace
from typing import Any

import numpy as np
from PIL import Image

from pipeline.config.buckets import Sizes
from pipeline.records.part import Edit, Part, Sample, Status
from pipeline.steps.prepare import Preparation, prepare
from tests.samples import pixels

LIMITS = Preparation(sizes=Sizes(32), resize="crop", resolution="model", max_pixels=10**6)


def limits(**changes: Any) -> Preparation:
    """``LIMITS`` with changes; suffixes may be a list."""
    if "suffixes" in changes:
        changes["suffixes"] = tuple(changes["suffixes"])
    return replace(LIMITS, **changes)


def image_of(sample: Sample) -> np.ndarray:
    assert sample.image is not None
    return sample.image


def mask_of(sample: Sample) -> np.ndarray:
    assert sample.supplied_mask is not None
    return sample.supplied_mask


def prepare_one(encoded: bytes, mask: bytes | None = None, **changes: Any) -> Sample:
    """One image through the step, at 32 x 32 unless ``changes`` say otherwise."""
    sample = Sample(
        "k", encoded=encoded, encoded_mask=mask, extras={"cls": b"1"}, edits=[Edit(0, "x")]
    )
    return prepare(Part("s", 0, 1, [sample]), limits(**changes)).samples[0]


def reason(sample: Sample) -> tuple[str | None, str | None]:
    edit = sample.edits[0]
    assert (edit.status, edit.stage) == (Status.FAILED, "prepare")
    assert sample.image is None
    assert sample.encoded is None
    return edit.error, edit.message


def save(sample: Image.Image, form: str, **options: Any) -> bytes:
    sink = io.BytesIO()
    sample.save(sink, form, **options)
    return sink.getvalue()


def animated(form: str) -> bytes:
    frames = [Image.fromarray(pixels(seed, 32, 32)) for seed in (1, 2)]
    return save(frames[0], form, save_all=True, append_images=frames[1:], lossless=True)
