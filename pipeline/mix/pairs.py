"""Pairs of an image before and after an edit, with the instruction between them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from itertools import takewhile
from typing import Any

from pipeline.config.buckets import Sizes, resize_of
from pipeline.config.config import Config
from pipeline.images.files import encode_image
from pipeline.mix.samples import MixedSample
from pipeline.mix.survey import MixError
from pipeline.mix.tables import SCORES, as_image
from pipeline.plan.run_folder import CONFIG_FILE
from pipeline.records.part import Edit, Part, Sample
from pipeline.steps.prepare import Preparation, prepare
from pipeline.storage.content import Span


def pair_row(edit: MixedSample, original: Sample, config: Config | None) -> dict[str, Any]:
    """A row of ``tables.PAIRS``.

    Args:
        edit: an edited sample.
        original: its source.
        config: of the run that made the edit.

    Raises:
        MixError: see ``before``.
    """
    made = edit.provenance
    image, suffix = before(edit, original, config)
    scores = json.loads(made.get("scores") or "{}")
    mask = edit.members.get("mask.png")
    return {
        "before": as_image(image, f"{edit.key}.before.{suffix}"),
        "after": as_image(edit.image, f"{edit.key}.after.{edit.suffix}"),
        "mask": None if mask is None else as_image(mask, f"{edit.key}.mask.png"),
        "instruction": instruction(made["caption"], made["edit_text"]),
        "caption_before": made["caption"],
        "caption_after": made["edit_text"],
        **{name: scores.get(name) for name in SCORES},
        **{name: made.get(name) for name in ("mask_area", "edit_index", "model", "seed")},
        "model_revision": made.get("model_revision"),
        **{name: edit.record[name] for name in ("shard", "key", "source_sha256")},
    }


def before(edit: MixedSample, original: Sample, config: Config | None) -> tuple[bytes | Span, str]:
    """The image before the edit, pixel for pixel beside the one after it: its file and suffix.

    An edit at the original's size has the original's file as it is. Else the original is cropped,
    padded or resized as it was for the model, and written in the format of the edit.

    Raises:
        MixError: the run's configuration is not known, or the original cannot be decoded.
    """
    assert original.encoded is not None
    assert original.suffix is not None
    source = (edit.provenance["source_width"], edit.provenance["source_height"])
    if edit.size == source:
        return original.encoded, original.suffix
    if config is None:
        raise MixError(
            f"{edit.key}: the edit is smaller than its original, and the output has no "
            f"{CONFIG_FILE}, which says how it was resized"
        )
    how = Preparation(
        sizes=Sizes.only(edit.size),
        resize=resize_of(config.model.buckets, config.model.resize, source),
        resolution="model",
        max_pixels=config.input.max_pixels,
        suffixes=tuple(config.input.image),
    )
    sample = replace(original, edits=[Edit(0, "")])
    prepare(Part(edit.record["shard"], 0, 1, [sample]), how)
    if sample.image is None:
        raise MixError(f"{edit.key}: the original cannot be read: {sample.edits[0].message}")
    return encode_image(sample.image, config.output), config.output.format


def instruction(caption: str, edit_text: str) -> str:
    """What to do, from the words in which two captions differ.

    "a dog on grass" and "a cat on grass" give "change dog to cat". Where nothing is common, it is
    the caption of the wanted image.
    """
    before, after = caption.split(), edit_text.split()
    start = _common(before, after)
    end = _common(before[start:][::-1], after[start:][::-1])
    if before == after or not start + end:
        return edit_text
    gone, new = (" ".join(words[start : len(words) - end]) for words in (before, after))
    if not gone:
        return f"add {new}"
    return f"change {gone} to {new}" if new else f"remove {gone}"


def _common(first: Sequence[str], second: Sequence[str]) -> int:
    """How many words both begin with."""
    pairs = zip(first, second, strict=False)
    return sum(1 for _ in takewhile(lambda pair: pair[0].lower() == pair[1].lower(), pairs))
