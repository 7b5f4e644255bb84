"""Surveys a shard by the rows of the edited outputs: usable images, accepted edits, the rest.

Reads Parquet files; the originals too where ``labels`` gives one of them no class. Each shard is
surveyed twice, once to count and once to mix, so that the rows of all shards are never in memory
together.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from pipeline.config.mix import Mix
from pipeline.mix.choose import EditId, label_of, split_of
from pipeline.records.part import Sample, Status
from pipeline.republish.generation import read_rows
from pipeline.steps.boxes import boxes_of
from pipeline.steps.marker import ShardStats, read_marker
from pipeline.steps.read import read_originals
from pipeline.steps.texts import SampleError
from pipeline.storage.content import Span
from pipeline.storage.shards import InputShard
from pipeline.storage.store import Store

COLUMNS = (
    *("key", "edit_index", "output_key", "status", "stage", "error", "edit_text"),
    *("source_sha256", "source_width", "source_height", "caption", "boxes_covered"),
)
NO_BOXES = "no boxes"
IN_PAIRS = "only in pairs with its edits"


class MixError(ValueError):
    """Originals and outputs do not belong together, or have changed; says what to do about it."""


@dataclass(frozen=True)
class AcceptedEdit:
    """An edit that may be taken."""

    id: EditId
    output_key: str
    label: int | str | None  # None: it keeps its source's class
    has_boxes: bool = False  # in pixels of the edit


@dataclass
class Survey:
    """One shard. Every row of every output is an accepted edit or is counted as left out."""

    name: str
    markers: list[ShardStats]  # of each output
    images: dict[str, str] = field(default_factory=dict)  # sha256 of each usable image, by key
    splits: dict[str, str] = field(default_factory=dict)  # split of each usable image, by key
    sizes: dict[str, tuple[int, int]] = field(default_factory=dict)  # likewise, in pixels
    captions: dict[str, str] = field(default_factory=dict)  # of each usable image, by key
    classes: dict[str, int | str] = field(default_factory=dict)  # by ``labels``, by key
    # Keys of images that have no class, or no boxes where the format needs them.
    unlabeled: set[str] = field(default_factory=set)
    only_pairs: bool = False  # no image is in the mix itself
    edits: dict[str, list[AcceptedEdit]] = field(default_factory=dict)  # by split
    images_left_out: Counter[str] = field(default_factory=Counter)  # by reason
    edits_left_out: Counter[str] = field(default_factory=Counter)  # by reason
    num_rows: int = 0

    @property
    def originals(self) -> dict[str, str]:
        """The split of each image that is in the mix itself, by key."""
        if self.only_pairs:
            return {}
        return {key: split for key, split in self.splits.items() if key not in self.unlabeled}


def survey_shard(
    outputs: Sequence[Store], name: str, mix: Mix, originals: Callable[[], list[Sample]]
) -> Survey:
    """Reads the rows of a shard in every output.

    Args:
        outputs: of ``overpaint edit``.
        name: of the shard.
        mix: the settings.
        originals: reads the input shard; called if a caption gives no class, or for YOLO's boxes.

    Raises:
        MixError: an output has not published the shard, or was made from other images.
        NotTheSameError: a Parquet file does not match its marker.
    """
    survey = Survey(name, [_marker(output, name) for output in outputs])
    survey.edits = {split: [] for split in mix.edited_splits}
    rows = [
        read_rows(output, marker).select(list(COLUMNS)).to_pylist()
        for output, marker in zip(outputs, survey.markers, strict=True)
    ]
    unusable = _find_images(survey, rows, outputs, mix)
    survey.images_left_out.update(unusable)
    if mix.labels:
        _find_classes(survey, mix, originals)
    if mix.format == "yolo":
        _find_boxes(survey, mix, originals)
    if mix.format == "pairs":
        survey.only_pairs = True
        survey.images_left_out = Counter(unusable)
        survey.images_left_out[IN_PAIRS] += len(survey.images)
    for number, of_output in enumerate(rows):
        survey.num_rows += len(of_output)
        for row in of_output:
            _classify(survey, number, row, mix)
    return survey


def originals_of(shard: InputShard, mix: Mix) -> list[Sample]:
    """The samples of an input shard that have an image and a caption; see ``read_originals``.

    Raises:
        OSError: it cannot be read, or is another object than the listed one.
    """
    return read_originals(shard.open(mix.input.storage_options)[0], mix.input)


def boxes_in(
    members: Mapping[str, bytes | Span], suffix: str, size: tuple[int, int]
) -> dict[str, Any] | None:
    """The boxes of a sample in pixels of its image; None if it has none that can be used."""
    if suffix not in members:
        return None
    try:
        return boxes_of(bytes(members[suffix]), size)
    except SampleError:
        return None


def _marker(output: Store, name: str) -> ShardStats:
    marker = read_marker(output, name)
    if marker is None:
        raise MixError(f"{output.url}: shard {name} is not published; finish that run first")
    return marker


def _find_images(
    survey: Survey, rows: Sequence[list[dict[str, Any]]], outputs: Sequence[Store], mix: Mix
) -> Counter[str]:
    """Records which samples have a readable image, according to the runs; counts the others."""
    unusable: dict[str, str] = {}
    for output, of_output in zip(outputs, rows, strict=True):
        for row in of_output:
            key, digest = row["key"], row["source_sha256"]
            # an image that no run has decoded may be unreadable
            never_decoded = row["stage"] in ("read", "prepare") and row["source_width"] is None
            if digest is None or never_decoded:
                unusable[key] = f"{row['stage']}: {row['error']}"
                continue
            survey.captions.setdefault(key, row["caption"] or "")
            survey.sizes.setdefault(key, (row["source_width"] or 0, row["source_height"] or 0))
            if survey.images.setdefault(key, digest) != digest:
                raise MixError(
                    f"{output.url}: shard {survey.name}: the image of {key!r} differs from the one "
                    f"in {outputs[0].url}; mix outputs of the same input"
                )
    survey.splits = {
        key: split_of(digest, mix.splits, mix.seed) for key, digest in survey.images.items()
    }
    return Counter(reason for key, reason in unusable.items() if key not in survey.images)


def _find_classes(survey: Survey, mix: Mix, originals: Callable[[], list[Sample]]) -> None:
    """Labels images by their captions, and leaves out those without any class.

    An image with a class of its own keeps that one; only its shard knows.
    """
    reasons = {}
    for key, caption in survey.captions.items():
        try:
            survey.classes[key] = label_of(caption, mix.labels, "caption")
        except ValueError as error:
            reasons[key] = str(error)
    if reasons:
        labeled = {sample.key for sample in originals() if mix.label_member in sample.extras}
        survey.unlabeled = reasons.keys() - labeled
        survey.images_left_out.update(reasons[key] for key in survey.unlabeled)


def _find_boxes(survey: Survey, mix: Mix, originals: Callable[[], list[Sample]]) -> None:
    """Leaves out images whose boxes are missing or cannot be used."""
    boxed = {
        sample.key
        for sample in originals()
        if sample.key in survey.sizes
        and boxes_in(sample.extras, mix.input.boxes.lower(), survey.sizes[sample.key]) is not None
    }
    missing = survey.images.keys() - boxed - survey.unlabeled
    survey.unlabeled |= missing
    survey.images_left_out.update({NO_BOXES: len(missing)} if missing else {})


def _classify(survey: Survey, output: int, row: dict[str, Any], mix: Mix) -> None:
    """Accepts the edit of a row, or counts the reason why it is left out."""
    if row["status"] != Status.EDITED:
        survey.edits_left_out[row["status"]] += 1
        return
    label = None
    if mix.labels:
        try:
            label = label_of(row["edit_text"] or "", mix.labels)
        except ValueError as error:
            survey.edits_left_out[str(error)] += 1
            return
    has_boxes = row["boxes_covered"] is not None
    if mix.format == "yolo" and not has_boxes:
        survey.edits_left_out[NO_BOXES] += 1
        return
    split = survey.splits[row["key"]]
    if split not in survey.edits:
        survey.edits_left_out[f"the source image is in {split}"] += 1
        return
    edit = EditId(output, row["key"], row["edit_index"])
    survey.edits[split].append(AcceptedEdit(edit, row["output_key"], label, has_boxes))
