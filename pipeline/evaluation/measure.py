"""Measures a benchmark's edits in an output: figures for each edit, and their means."""

from __future__ import annotations

import io
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from pipeline.config.buckets import Sizes
from pipeline.config.config import Config
from pipeline.evaluation.tasks import TRUTH, BenchmarkError
from pipeline.images.files import decode_image, decode_mask
from pipeline.records.part import Part, Sample, Status
from pipeline.scores.background import background_scores
from pipeline.steps.output_keys import output_key
from pipeline.steps.prepare import Preparation, prepare
from pipeline.steps.read import read_shard
from pipeline.storage.archive import find_samples
from pipeline.storage.content import Span
from pipeline.storage.layout import REJECTED, parquet_name, tar_name
from pipeline.storage.shards import expand_shards
from pipeline.storage.store import Store

# Figures that are taken from columns of the rows: their names and factors in published tables.
FIGURES_OF_COLUMN = {
    "score_lpips": (("lpips_e3", 1e3), ("lpips_e2", 1e2)),
    "score_clip_text_after": (("clip_whole", 1e2),),
    "score_clip_image": (("clip_image", 1e2),),
    "score_dino_structure": (("structure_e3", 1e3),),
    "score_edit_rms": (("edit_rms", 1.0),),
}
AT_LEAST_ZERO = {"clip_whole"}  # as in CLIPScore (Hessel et al., arXiv:2104.08718)
DISTANCES = {"score_lpips", "score_dino_structure", "score_edit_rms"}

Image = NDArray[np.uint8]


@dataclass(frozen=True)
class Seen:
    """One edit that has an image: the input of a judge."""

    facts: dict[str, Any]  # of the task
    edit_text: str
    before: Image  # (H, W, 3), prepared to the model's size
    after: Image  # same shape; equal to ``before`` for an unchanged edit
    truth: NDArray[np.bool_] | None  # (H, W), True in the annotated region; None: not annotated
    is_unchanged: bool
    group: str = ""  # the task's


class Judge(Protocol):
    """Computes further figures, with a network for example, beside those from the rows."""

    def edits(self, seen: Sequence[Seen]) -> list[dict[str, float]]:
        """Further figures of each edit. Called once per shard that has edits with an image."""
        ...

    def whole(self) -> dict[str, float]:
        """Figures of all edits together that are not means over edits. Called at the end."""
        ...


@dataclass
class Measured:
    """The result of one task: status and figures of its edit."""

    key: str
    group: str
    status: str
    facts: dict[str, Any]
    figures: dict[str, float] = field(default_factory=dict)


def measure(config: Config, sizes: Sizes, judges: Sequence[Judge] = ()) -> list[Measured]:
    """Compares every edit of a finished run with its prepared input.

    The result of an ``unchanged`` edit is its input. A rejected edit counts with its image, if it
    was kept. A failed edit has a status but no figures.

    Args:
        config: of the run; ``output.resolution`` is "model".
        sizes: of the model's images.
        judges: compute further figures of each edit; if two give the same figure, the later wins.

    Raises:
        BenchmarkError: an input shard is not published, or its rows cannot be read.
    """
    assert config.output.resolution == "model"
    output = Store(config.output.path, config.output.storage_options)
    measured: list[Measured] = []
    for shard in expand_shards(config.input.shards, config.input.storage_options):
        data, _ = shard.open(config.input.storage_options)
        samples = read_shard(data, config.input, ranges=True).samples
        measured += _measure_shard(output, shard.name, samples, config, sizes, judges)
    return measured


def _measure_shard(
    output: Store,
    shard: str,
    samples: list[Sample],
    config: Config,
    sizes: Sizes,
    judges: Sequence[Judge],
) -> list[Measured]:
    try:
        rows = pq.read_table(io.BytesIO(output.get(parquet_name(shard)))).to_pylist()
        members = find_samples(output.open(tar_name(shard)))
    except FileNotFoundError as error:
        raise BenchmarkError(f"shard {shard} is not published in {output.url}") from error
    except pa.ArrowException as error:
        raise BenchmarkError(
            f"{output.url}/{parquet_name(shard)}: cannot be read ({error}); overpaint verify "
            "lists what is damaged"
        ) from error
    rejected = f"{REJECTED}{tar_name(shard)}"
    if any(row["status"] == Status.REJECTED for row in rows) and output.exists(rejected):
        members |= find_samples(output.open(rejected))
    by_key = {sample.key: sample for sample in samples}
    scored = {
        column for column in FIGURES_OF_COLUMN if any(row.get(column) is not None for row in rows)
    }
    results, with_image = [], []
    for row in rows:
        sample = by_key.get(row["key"])
        if sample is None:  # because of input.limit, or because the input has changed
            continue
        facts = dict(sample.metadata)
        result = Measured(row["key"], str(facts.pop("group", "")), row["status"], facts)
        results.append(result)
        before, truth = _prepared(sample, config, sizes)
        after, mask = _after(row, members, before)
        if before is None or after is None:
            continue
        is_unchanged = row["status"] == Status.UNCHANGED
        if is_unchanged:  # the distance of an image to itself
            row |= dict.fromkeys(scored & DISTANCES, 0.0)
        result.figures = _figures(row, before, after, truth, mask)
        if not judges:  # then no shard's images are held
            continue
        seen = Seen(facts, row["edit_text"] or "", before, after, truth, is_unchanged, result.group)
        with_image.append((result, seen))
    for judge in judges if with_image else ():
        found = judge.edits([seen for _, seen in with_image])
        for (result, _), figures in zip(with_image, found, strict=True):
            result.figures |= figures
    return results


def _prepared(
    sample: Sample, config: Config, sizes: Sizes
) -> tuple[Image | None, NDArray[np.bool_] | None]:
    """The image and the annotated region, prepared to the model's size."""
    sample.encoded_mask = sample.extras.get(TRUTH)
    prepare(Part("", 0, 1, [sample]), Preparation.of(config, sizes))
    image, truth = sample.image, sample.supplied_mask
    sample.image = sample.supplied_mask = None  # the shard's samples live on
    return image, None if truth is None else truth >= 128


def _after(
    row: dict[str, Any], members: dict[str, dict[str, Span]], before: Image | None
) -> tuple[Image | None, NDArray[np.bool_] | None]:
    """The edited image and the method's mask; for an unchanged edit the input and an empty mask."""
    if before is None or row["status"] == Status.FAILED:
        return None, None
    if row["status"] == Status.UNCHANGED:
        return before, np.zeros(before.shape[:2], np.bool_)
    own = members.get(output_key(row["key"], row["edit_index"]), {})
    files = [data for name in ("png", "webp", "jpg") if (data := own.get(name))]
    mask = own.get("mask.png")
    if not files or mask is None:
        return None, None
    limit = before.shape[0] * before.shape[1]
    decoded, _ = decode_image(bytes(files[0]), max_pixels=limit, suffixes=("png", "webp", "jpg"))
    return np.asarray(decoded), np.asarray(decode_mask(bytes(mask), max_pixels=limit)) >= 128


def _figures(
    row: dict[str, Any],
    before: Image,
    after: Image,
    truth: NDArray[np.bool_] | None,
    mask: NDArray[np.bool_] | None,
) -> dict[str, float]:
    """The figures of one edit; those of the background only if some background is annotated."""
    figures = {
        name: _at_least_zero(name, factor * row[column])
        for column, names in FIGURES_OF_COLUMN.items()
        for name, factor in names
        if row.get(column) is not None
    }
    if truth is None:
        return figures
    if mask is not None:
        union = (mask | truth).sum()
        figures["mask_iou"] = float((mask & truth).sum() / union) if union else 1.0
    if truth.all():  # no pixel is background; PIE-Bench leaves such tasks out too
        return figures
    scores = background_scores(before, after, truth)
    found = {
        "psnr_db": scores.psnr_db,
        "ssim_e2": None if scores.ssim is None else 100 * scores.ssim,
        "mse_e4": None if scores.mse is None else 1e4 * scores.mse,
        "psnr_frame_db": scores.psnr_frame_db,
        "ssim_frame_e2": None if scores.ssim_frame is None else 100 * scores.ssim_frame,
        "mse_frame_e4": 1e4 * scores.mse_frame,
    }
    return figures | {name: value for name, value in found.items() if value is not None}


def _at_least_zero(name: str, value: float) -> float:
    return max(value, 0.0) if name in AT_LEAST_ZERO else value


def means(measured: Sequence[Measured]) -> dict[str, float]:
    """The mean of each figure over the edits that have it."""
    values: dict[str, list[float]] = defaultdict(list)
    for item in measured:
        for name, value in item.figures.items():
            values[name].append(value)
    return {name: float(np.mean(values[name])) for name in sorted(values)}


def summary(measured: Sequence[Measured], judges: Sequence[Judge] = ()) -> dict[str, Any]:
    """JSON-able: counts by status, means over all edits and over each group, counts of figures.

    The figures include those that the judges compute of all edits together.
    """
    whole = {name: value for judge in judges for name, value in judge.whole().items()}
    groups = sorted({item.group for item in measured})
    counted: Counter[str] = Counter(name for item in measured for name in item.figures)
    return {
        "counts": dict(sorted(Counter(item.status for item in measured).items())),
        "figures": means(measured) | whole,
        "edits_with_figure": dict(sorted(counted.items())),
        "groups": {
            group: {"edits": len(items), "figures": means(items)}
            for group in groups
            if (items := [item for item in measured if item.group == group])
        },
    }
