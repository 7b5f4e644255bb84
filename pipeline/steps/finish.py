"""Composites and encodes the files of each edit, and makes a row for every edit."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from pipeline.config.config import Config
from pipeline.images.composite import (
    CUT_NOTE,
    Composite,
    composite,
    into_source,
    mask_of,
    meets_cut,
)
from pipeline.images.files import decode_image, encode_gray, encode_image
from pipeline.images.geometry import placement_of
from pipeline.process.heartbeat import heartbeat
from pipeline.records.part import Edit, Part, Sample, Status
from pipeline.records.rows import SCORE, Row, staged_table
from pipeline.scores.background import background_scores
from pipeline.steps.boxes import Place
from pipeline.steps.labels import Followed, Texts, follow
from pipeline.steps.output_keys import IMAGE_SUFFIXES, output_key, output_suffix
from pipeline.steps.provenance import json_text, provenance
from pipeline.storage.readers import in_threads

Members = list[dict[str, Any]]  # {"suffix": str, "data": bytes}, in their order in the tar


@dataclass(frozen=True)
class FinishContext:
    """What rows and files need to know about a run."""

    config: Config
    fingerprint: str
    model: str  # as named in the config
    model_revision: str
    settings_for: Callable[
        [Sample], dict[str, Any]
    ]  # raises ValueError for bad settings of a sample
    keep_difference: bool = False  # write the difference map behind the mask


def finish(part: Part, context: FinishContext, *, threads: int = 1) -> Part:
    """Makes the table of a part: a row for every edit, with its members where it was edited.

    An edit in flight becomes ``edited`` if it has an image, else ``failed``: a stage left it out.
    An error here fails only that edit.

    Args:
        part: after the stages; its edits get their status.
        context: of the run.
        threads: edits finished at once.

    Returns:
        The part, with its ``table``: ``STAGED_SCHEMA``, the edits in their order.
    """
    pairs = [(sample, edit) for sample in part.samples for edit in sample.edits]
    finished = in_threads(
        lambda pair: _finished(part.shard, *pair, context), pairs, threads=threads
    )
    rows, members = [], []
    for _, (row, own) in finished:
        rows.append(row)
        members.append(own)
    part.table = staged_table(rows, members)
    return part


def _finished(
    shard: str, sample: Sample, edit: Edit, context: FinishContext
) -> tuple[Row, Members]:
    """The row of an edit, and its files where it was edited."""
    heartbeat(sample.key)
    settings, seed = _settings(sample, edit, context)
    height, width = (None, None) if sample.image is None else sample.image.shape[:2]
    known: dict[str, Any] = {
        "shard": shard,
        "key": sample.key,
        "edit_index": edit.index,
        "caption": sample.caption,
        "edit_text": edit.edit_text,
        "source_sha256": sample.source_sha256,
        "source_width": sample.source_width,
        "source_height": sample.source_height,
        "model_width": width,
        "model_height": height,
        "num_evals_mask": edit.num_evals_mask,
        "num_evals_encode": edit.num_evals_encode,
        "num_evals_decode": edit.num_evals_decode,
        "method": context.config.method.name,
        "settings": settings,
        "model": context.model,
        "model_revision": context.model_revision,
        "seed": seed,
        "fingerprint": context.fingerprint,
        "notes": edit.notes,
    }
    members: Members = []
    written: dict[str, Any] = {}
    if edit.pending and edit.image is None:
        edit.fail("finish", "Internal", "no stage gave this edit an image or a reason")
    if edit.pending:
        try:
            members, written = _write_members(sample, edit, known, context)
            edit.status = Status.EDITED
        except (Exception, SystemExit) as error:  # noqa: BLE001 - one edit fails, the part goes on
            edit.fail("finish", error)
    values = known | {
        "mask_area": _area(edit),
        "settings": json_text(settings).decode(),
        "status": str(edit.status),
        "stage": edit.stage,
        "error": edit.error,
        "message": _one_line(edit.message),
        "output_key": output_key(sample.key, edit.index) if members else None,
        **written,
    }
    return Row(**values), members


def _write_members(
    sample: Sample, edit: Edit, known: dict[str, Any], context: FinishContext
) -> tuple[Members, dict[str, Any]]:
    """The files of an edit, and the columns that describe them."""
    mask = mask_of(sample, edit)
    made = _composed(sample, edit, mask, context)
    output = context.config.output
    encoded = encode_image(made.pixels, output)
    height, width = made.mask.shape
    written = {
        "image_sha256": hashlib.sha256(encoded).hexdigest(),
        "width": width,
        "height": height,
        "mask_area": round(made.area, 6),
        "mask_box": made.box,
        "score_edit_rms": _rounded(made.edit_rms, 6),
    }
    labels = _labels(sample, edit, made, context.config)
    edit.notes.extend(labels.notes)
    if labels.covered is not None:
        written["boxes_covered"] = labels.covered
    written |= _background(sample, edit, mask > 0)
    written |= {f"{SCORE}{name}": value for name, value in edit.scores.items()}
    files = {
        output.format: encoded,
        "txt": (edit.edit_text or "").encode(),
        "json": provenance(sample, known | written),
        "mask.png": encode_gray(made.mask),
    }
    if context.keep_difference and edit.difference is not None:
        gray = np.round(edit.difference.clip(0, 1) * 255).astype(np.uint8)
        files["difference.png"] = encode_gray(gray)
    reserved = {*files, *IMAGE_SUFFIXES, "difference.png"}
    files |= {output_suffix(name, reserved): data for name, data in labels.members.items()}
    members = [{"suffix": suffix, "data": data} for suffix, data in sorted(files.items())]
    return members, written


def _labels(sample: Sample, edit: Edit, made: Composite, config: Config) -> Followed:
    """The files that are passed through, with boxes and masks as they are in the written image."""
    assert sample.image is not None
    assert sample.source_width is not None
    assert sample.source_height is not None
    height, width = sample.image.shape[:2]
    source = (sample.source_width, sample.source_height)
    return follow(
        sample.extras,
        texts=Texts(sample.caption or "", edit.edit_text or ""),
        place=Place(placement_of(config.model, source, (width, height)), config.output.resolution),
        inside=made.mask > 0,
        read=config.input,
        labels=config.labels,
    )


def _background(sample: Sample, edit: Edit, inside: np.ndarray) -> dict[str, float | None]:
    """The scores of the background, by column. They judge the decoded image.

    Not the composite: its background is that of the input, whatever the method did to it.
    """
    assert sample.image is not None
    assert edit.image is not None
    scores = asdict(background_scores(sample.image, edit.image, inside))
    digits = {"mse": 9, "mse_frame": 9, "psnr_db": 3, "psnr_frame_db": 3}
    return {
        f"{SCORE}background_{name}": _rounded(value, digits.get(name, 6))
        for name, value in scores.items()
    }


def _composed(sample: Sample, edit: Edit, mask: np.ndarray, context: FinishContext) -> Composite:
    config = context.config
    assert sample.image is not None
    assert edit.image is not None
    feather = config.method.composite.feather if config.method.composite.enabled else None
    made = composite(sample.image, edit.image, mask, feather=feather)
    if config.output.resolution == "model":
        return made
    assert sample.encoded is not None
    source, _ = decode_image(
        sample.encoded, max_pixels=config.input.max_pixels, suffixes=config.input.image
    )
    height, width = sample.image.shape[:2]
    placement = placement_of(config.model, source.size, (width, height))
    if meets_cut(mask, placement):
        edit.notes.append(CUT_NOTE)
    raw = composite(sample.image, edit.image, mask, feather=None)
    return into_source(np.asarray(source), raw, placement, feather=feather)


def _settings(sample: Sample, edit: Edit, context: FinishContext) -> tuple[dict[str, Any], int]:
    """The settings used for this sample, and its seed. Bad settings fall back to the run's."""
    seed = sample.settings.get("seed")
    if not isinstance(seed, int) or isinstance(seed, bool) or not 0 <= seed < 2**63:
        seed = context.config.run.seed
    try:
        return context.settings_for(sample), seed
    except (ValueError, TypeError) as error:
        if edit.pending:
            edit.fail("finish", "BadSettings", str(error))
        return context.settings_for(Sample(sample.key)), seed


def _area(edit: Edit) -> float | None:
    """The share of mask cells above 0, for edits without files."""
    return None if edit.mask is None else round(float((edit.mask > 0).mean()), 6)


def _rounded(value: float | None, digits: int) -> float | None:
    return None if value is None else round(value, digits)


def _one_line(message: str | None) -> str | None:
    """Any exception's message as one line that Arrow can store."""
    if message is None:
        return None
    return " ".join(message.encode("utf-8", "backslashreplace").decode().split())
