"""Writes a shard of a mix: reads originals and chosen edits, and writes a tar for each split.

Objects are written whole. A shard's marker is written last, ``manifest.json`` after all markers.

    OUT/train/00042.tar      <key>_original.* and <key>_edited<output>_<edit index>.*
    OUT/val/00042.tar
    OUT/_mix/plan.json       everything that the bytes depend on
    OUT/_mix/shards/00042.json    the marker: counts, sizes, sha256
    OUT/manifest.json        the sums, and the shards of each split
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from functools import cache, partial
from typing import Any

from pipeline.mix.choose import EditId, choose_edits, unit_hash
from pipeline.mix.marker import (
    PLAN_FILE,
    MixedShard,
    MixedSplit,
    marker_name,
    read_mixed,
    wrong_counts,
    wrong_tars,
)
from pipeline.mix.plan import MixPlan, PlannedShard
from pipeline.mix.survey import AcceptedEdit, MixError, Survey, originals_of, survey_shard
from pipeline.records.part import Sample
from pipeline.records.run_files import NewerVersionError, RunFileError, to_json
from pipeline.steps.output_keys import IMAGE_SUFFIXES, output_key, output_suffix
from pipeline.storage.archive import read_members
from pipeline.storage.layout import tar_name
from pipeline.storage.store import Store
from pipeline.storage.tar_write import SampleTar

NOT_CHOSEN = "beyond the ratio"
Members = dict[str, bytes]


def mix_shard(plan: MixPlan, planned: PlannedShard) -> tuple[MixedShard, list[str]]:
    """Writes a shard of the mix, unless its marker exists and its tars are what the marker says.

    Returns:
        The marker, and a line for each object that was damaged or missing and is written anew.

    Raises:
        NewerVersionError: a newer version wrote the marker.
        MixError: the input or an output has changed since the plan was made.
    """
    name, output = planned.shard.name, plan.output
    written, wrong = _written(output, planned)
    if written is not None and not wrong:
        return written, []
    originals = cache(partial(originals_of, planned.shard, plan.mix))  # read once
    survey = survey_shard(plan.edited, name, plan.mix, originals)
    if [stats.parquet_sha256 for stats in survey.markers] != planned.parquet_sha256:
        raise MixError(f"shard {name}: the edited output has changed during the mix; run it again")
    chosen = _chosen(plan, planned, survey)
    mixed = _account(survey, chosen)
    samples = [*_originals(plan, originals(), survey), *_edits(plan, survey, chosen, mixed)]
    for split in plan.mix.splits:
        of_split = [(key, members) for found, key, members in samples if found == split]
        if of_split:
            path = f"{split}/{tar_name(name)}"
            data = _tar(sorted(of_split, key=lambda item: unit_hash(plan.mix.seed, name, item[0])))
            output.put(path, data)
            digest = hashlib.sha256(data).hexdigest()
            counts = mixed.splits[split]
            mixed.splits[split] = replace(counts, tar=path, bytes=len(data), sha256=digest)
    output.put(marker_name(name), to_json(mixed.tree()))
    return mixed, wrong


def _written(output: Store, planned: PlannedShard) -> tuple[MixedShard | None, list[str]]:
    """The marker of an earlier run, if any, and what is wrong with it or with its tars."""
    shard = planned.shard.name
    try:
        mixed = read_mixed(output, shard)
    except FileNotFoundError:
        return None, []
    except NewerVersionError:
        raise
    except RunFileError as error:
        return None, [f"{marker_name(shard)} {error.reason}"]
    wrong = [*wrong_counts(mixed), *wrong_tars(output, mixed)]
    for split in {*mixed.splits, *planned.images}:
        found, take = mixed.splits.get(split, MixedSplit()), planned.take.get(split, 0)
        if (found.original, found.edited) != (planned.images.get(split, 0), take):
            wrong.append(f"the marker's counts of {split} are not those of the plan")
    return mixed, wrong


def record_plan(plan: MixPlan) -> None:
    """Writes the plan's identity to the output, unless an earlier run has."""
    plan.output.put_if_absent(PLAN_FILE, to_json(plan.identity()))


def _chosen(plan: MixPlan, planned: PlannedShard, survey: Survey) -> dict[str, list[AcceptedEdit]]:
    """The chosen edits, by split."""
    chosen = {}
    for split, edits in survey.edits.items():
        by_id = {edit.id: edit for edit in edits}
        count, seed = planned.take[split], plan.mix.seed
        ids = choose_edits(list(by_id), count, shard=survey.name, seed=seed)
        chosen[split] = [by_id[each] for each in ids]
    return chosen


def _account(survey: Survey, chosen: dict[str, list[AcceptedEdit]]) -> MixedShard:
    """The counts of a shard. The numbers used and left out must add up to the number of rows."""
    left_out = Counter(survey.edits_left_out)
    for split, edits in survey.edits.items():
        left_out[NOT_CHOSEN] += len(edits) - len(chosen[split])
    samples = Counter(survey.originals.values())
    mixed = MixedShard(
        survey.name,
        splits={
            split: MixedSplit(samples[split], len(chosen.get(split, [])))
            for split in dict.fromkeys([*samples, *survey.edits])
        },
        images_left_out=dict(sorted(survey.images_left_out.items())),
        edits_left_out={reason: count for reason, count in sorted(left_out.items()) if count},
        num_images=samples.total() + survey.images_left_out.total(),
        num_rows=survey.num_rows,
        problem=next((stats.problem for stats in survey.markers if stats.problem), None),
    )
    assert sum(item.edited for item in mixed.splits.values()) + left_out.total() == (mixed.num_rows)
    return mixed


def _originals(
    plan: MixPlan, originals: list[Sample], survey: Survey
) -> Iterator[tuple[str, str, Members]]:
    """(split, key, members) of every image that is in the mix itself."""
    label_member = plan.mix.label_member
    by_key = {sample.key: sample for sample in originals}
    for key, split in survey.originals.items():
        sample, digest = by_key.get(key), survey.images[key]
        if sample is None or sample.source_sha256 != digest:
            raise MixError(
                f"shard {survey.name}: {key!r} is not the image that was edited; the input has "
                "changed, or input.shards names other images"
            )
        assert sample.suffix is not None
        details = {"kind": "original", "output": -1, "weight": 1.0}
        record = {
            "mix": _record(survey, key, split, details),
            "source": json.dumps(sample.metadata, sort_keys=True, ensure_ascii=False),
        }
        members = _original_members(sample, record)
        if key in survey.classes:
            members.setdefault(label_member, str(survey.classes[key]).encode())
        yield split, f"{_encoded(key)}_original", members


def _original_members(sample: Sample, record: dict[str, Any]) -> Members:
    """Image, caption and JSON, and the members that are passed through to edits."""
    assert sample.suffix is not None
    assert sample.encoded is not None
    members = {sample.suffix: sample.encoded, "json": _provenance(record)}
    if sample.caption is not None:
        members["txt"] = sample.caption.encode()
    reserved = {sample.suffix, *IMAGE_SUFFIXES, "json", "txt"}
    return members | {output_suffix(name, reserved): data for name, data in sample.extras.items()}


def _edits(
    plan: MixPlan, survey: Survey, chosen: dict[str, list[AcceptedEdit]], mixed: MixedShard
) -> Iterator[tuple[str, str, Members]]:
    """(split, key, members) of every chosen edit, output by output."""
    label_member = plan.mix.label_member
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
            elif label_member in members:
                mixed.class_of_source += 1
            record = json.loads(members["json"])
            record["mix"] = _record(survey, edit.id.key, split, details)
            yield split, _edit_key(edit.id), members | {"json": _provenance(record)}
        if wanted:
            raise MixError(f"{store.url}: {tar_name(survey.name)} has no {next(iter(wanted))}")


def _read_samples(
    store: Store, survey: Survey, number: int, wanted: Any
) -> Iterator[tuple[str, Members]]:
    """The members of the wanted output keys, in the tar's order."""
    if not wanted:
        return
    data = store.get(tar_name(survey.name))
    if hashlib.sha256(data).hexdigest() != survey.markers[number].tar_sha256:
        raise MixError(f"{store.url}: {tar_name(survey.name)} does not match its marker")
    samples: dict[str, Members] = {}
    for name, content in read_members(data)[0]:
        key, _, suffix = name.partition(".")
        if key in wanted:
            samples.setdefault(key, {})[suffix] = content
    yield from list(samples.items())


def _record(survey: Survey, key: str, split: str, details: dict[str, Any]) -> dict[str, Any]:
    """The value of "mix" in a sample's JSON."""
    source = {"shard": survey.name, "key": key, "source_sha256": survey.images[key]}
    return source | {"split": split} | details


def _provenance(record: dict[str, Any]) -> bytes:
    text = json.dumps(record, sort_keys=True, ensure_ascii=False, indent=1)
    # A lone surrogate in a sample's JSON is written as it was read: as an escape.
    return text.encode("utf-8", "backslashreplace")


def _encoded(key: str) -> str:
    """A sample's key with dots encoded, as in the outputs."""
    return output_key(key, 0).removesuffix("_0")


def _edit_key(edit: EditId) -> str:
    """The key of an edit in the mix, unique in its shard."""
    return f"{_encoded(edit.key)}_edited{edit.output}_{edit.index}"


def _tar(samples: list[tuple[str, Members]]) -> bytes:
    tar = SampleTar()
    for key, members in samples:
        tar.add(key, members)
    return tar.getvalue()
