"""Reads the samples of a mixed shard: originals from the input, chosen edits from the outputs."""

from __future__ import annotations

import json
from collections.abc import Iterator, Set
from dataclasses import dataclass
from typing import Any

from pipeline.mix.choose import EditId
from pipeline.mix.marker import MixedShard
from pipeline.mix.plan import MixPlan
from pipeline.mix.survey import AcceptedEdit, MixError, Survey, boxes_in
from pipeline.records.part import Sample
from pipeline.steps.output_keys import IMAGE_SUFFIXES, output_key, output_suffix
from pipeline.storage.archive import find_samples
from pipeline.storage.content import Span, sha256_of
from pipeline.storage.layout import tar_name
from pipeline.storage.store import Store

Members = dict[str, bytes | Span]  # files by suffix; a range of a tar is read when it is written
Chosen = dict[str, list[AcceptedEdit]]  # by split


@dataclass(frozen=True)
class MixedSample:
    """An image of the mix with everything that belongs to it.

    Attributes:
        split: the split that it is in.
        key: unique in its shard.
        suffix: of the image among ``members``.
        members: as they stand in a tar of the mix.
        record: what ``key.json`` says of it under "mix".
        provenance: the rest of ``key.json``: of an edit, how it was made.
        size: width and height of the image in pixels, after EXIF rotation.
        boxes: in COCO's terms, in pixels of this image; None if it has no boxes.
    """

    split: str
    key: str
    suffix: str
    members: Members
    record: dict[str, Any]
    provenance: dict[str, Any]
    size: tuple[int, int]
    boxes: dict[str, Any] | None

    @property
    def image(self) -> bytes | Span:
        return self.members[self.suffix]

    @property
    def text(self) -> str:
        return bytes(self.members.get("txt", b"")).decode("utf-8", "replace")

    def label(self, member: str) -> str | None:
        """Its class, as the file of that suffix says."""
        data = self.members.get(member)
        return None if data is None else bytes(data).decode("utf-8", "replace").strip()


def original_samples(
    plan: MixPlan, originals: list[Sample], survey: Survey
) -> Iterator[MixedSample]:
    """Every image that is in the mix itself.

    Raises:
        MixError: an image is not the one that was edited.
    """
    by_key = {sample.key: sample for sample in originals}
    for key, split in survey.originals.items():
        sample = original(by_key, survey, key)
        assert sample.suffix is not None
        details = {"kind": "original", "output": -1, "weight": 1.0}
        record = _record(survey, key, split, details)
        source = json.dumps(sample.metadata, sort_keys=True, ensure_ascii=False)
        members = _original_members(sample, {"mix": record, "source": source})
        if key in survey.classes:
            members.setdefault(plan.mix.label_member, str(survey.classes[key]).encode())
        yield MixedSample(
            split,
            f"{encoded(key)}_original",
            sample.suffix,
            members,
            record,
            {},
            survey.sizes[key],
            boxes_in(members, plan.mix.input.boxes.lower(), survey.sizes[key]),
        )


def original(by_key: dict[str, Sample], survey: Survey, key: str) -> Sample:
    """The sample of that key. Raises MixError if it is not the image that was edited."""
    sample = by_key.get(key)
    if sample is None or sample.source_sha256 != survey.images[key]:
        raise MixError(
            f"shard {survey.name}: {key!r} is not the image that was edited; the input has "
            "changed, or input.shards names other images"
        )
    return sample


def edited_samples(
    plan: MixPlan, survey: Survey, chosen: Chosen, mixed: MixedShard
) -> Iterator[MixedSample]:
    """Every chosen edit, output by output. Counts in ``mixed`` those with their source's class."""
    label_member, boxes_suffix = plan.mix.label_member, plan.mix.input.boxes.lower()
    for number, store in enumerate(plan.edited):
        wanted = {
            edit.output_key: (split, edit)
            for split, edits in chosen.items()
            for edit in edits
            if edit.id.output == number
        }
        for key, members in _read_samples(store, survey, number, wanted.keys()):
            split, edit = wanted.pop(key)
            details = {"kind": "edited", "output": number, "weight": plan.weight(split)}
            if edit.label is not None:
                members[label_member] = str(edit.label).encode()
            elif label_member in members and plan.mix.format != "pairs":
                mixed.class_of_source += 1
            provenance = json.loads(bytes(members["json"]))
            record = _record(survey, edit.id.key, split, details)
            members["json"] = as_json(provenance | {"mix": record})
            size = (provenance["width"], provenance["height"])
            # Older outputs have the boxes of the source beside the edit, in its coordinates.
            boxes = boxes_in(members, boxes_suffix, size) if edit.has_boxes else None
            suffix = next(name for name in sorted(IMAGE_SUFFIXES) if name in members)
            yield MixedSample(
                split, _edit_key(edit.id), suffix, members, record, provenance, size, boxes
            )
        if wanted:
            raise MixError(f"{store.url}: {tar_name(survey.name)} has no {next(iter(wanted))}")


def as_json(record: dict[str, Any]) -> bytes:
    text = json.dumps(record, sort_keys=True, ensure_ascii=False, indent=1)
    # A lone surrogate in a sample's JSON is written as it was read: as an escape.
    return text.encode("utf-8", "backslashreplace")


def encoded(key: str) -> str:
    """A sample's key with dots encoded, as in the outputs."""
    return output_key(key, 0).removesuffix("_0")


def _original_members(sample: Sample, record: dict[str, Any]) -> Members:
    """Image, caption and JSON, and the members that are passed through to edits."""
    assert sample.suffix is not None
    assert sample.encoded is not None
    members: Members = {sample.suffix: sample.encoded, "json": as_json(record)}
    if sample.caption is not None:
        members["txt"] = sample.caption.encode()
    reserved = {sample.suffix, *IMAGE_SUFFIXES, "json", "txt"}
    return members | {output_suffix(name, reserved): data for name, data in sample.extras.items()}


def _read_samples(
    store: Store, survey: Survey, number: int, wanted: Set[str]
) -> Iterator[tuple[str, Members]]:
    """The members of the wanted output keys, in the tar's order."""
    if not wanted:
        return
    data = store.open(tar_name(survey.name))
    if sha256_of(data) != survey.markers[number].tar_sha256:
        raise MixError(f"{store.url}: {tar_name(survey.name)} does not match its marker")
    for key, members in find_samples(data).items():
        if key in wanted:
            yield key, dict(members)


def _record(survey: Survey, key: str, split: str, details: dict[str, Any]) -> dict[str, Any]:
    """The value of "mix" in a sample's JSON."""
    source = {"shard": survey.name, "key": key, "source_sha256": survey.images[key]}
    return source | {"split": split} | details


def _edit_key(edit: EditId) -> str:
    """The key of an edit in the mix, unique in its shard."""
    return f"{encoded(edit.key)}_edited{edit.output}_{edit.index}"
