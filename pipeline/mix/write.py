"""Writes a shard of a mix: reads originals and chosen edits, and writes the objects of each split.

Objects are written whole. A shard's marker is written last, the files of the whole mix after all
markers, and ``manifest.json`` at the end.

    OUT/train/00042.tar      <key>_original.* and <key>_edited<output>_<edit index>.*; or .parquet,
    OUT/val/00042.tar        or the files of a folder (``trees.py``)
    OUT/_mix/plan.json       everything that the bytes depend on
    OUT/_mix/shards/00042.json    the marker: counts, sizes, sha256
    OUT/_mix/pages/train/00042.json    of folders: the files of the shard
    OUT/README.md            the data set card
    OUT/manifest.json        the sums, and the shards of each split
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from functools import cache, partial

from pipeline.mix.choose import choose_edits, unit_hash
from pipeline.mix.formats import digest_of, objects_of, put, wrong_objects
from pipeline.mix.marker import (
    PLAN_FILE,
    MixedShard,
    MixedSplit,
    marker_name,
    read_mixed,
    wrong_counts,
)
from pipeline.mix.plan import MixPlan, PlannedShard
from pipeline.mix.samples import (
    Chosen,
    MixedSample,
    edited_samples,
    original,
    original_samples,
)
from pipeline.mix.survey import MixError, Survey, originals_of, survey_shard
from pipeline.records.part import Sample
from pipeline.records.run_files import NewerVersionError, RunFileError, sealed_json
from pipeline.storage.store import Store

NOT_CHOSEN = "beyond the ratio"


def mix_shard(plan: MixPlan, planned: PlannedShard) -> tuple[MixedShard, list[str]]:
    """Writes a shard of the mix, unless its marker exists and its tars are what the marker says.

    Returns:
        The marker, and a line for each object that was damaged or missing and is written anew.

    Raises:
        NewerVersionError: a newer version wrote the marker.
        MixError: the input or an output has changed since the plan was made.
    """
    name, output = planned.shard.name, plan.output
    found, wrong = _written(output, planned)
    if found is not None and not wrong:
        return found, []
    originals = cache(partial(originals_of, planned.shard, plan.mix))  # read once
    survey = survey_shard(plan.edited, name, plan.mix, originals)
    if [stats.parquet_sha256 for stats in survey.markers] != planned.parquet_sha256:
        raise MixError(
            f"shard {name}: the edited output has changed during the mix (a refilter, or retried "
            "edits?); mix into another folder"
        )
    chosen = _chosen(plan, planned, survey)
    mixed = _account(survey, chosen)
    samples = list(edited_samples(plan, survey, chosen, mixed))
    if survey.originals:
        samples += original_samples(plan, originals(), survey)
    samples.sort(key=lambda sample: unit_hash(plan.mix.seed, name, sample.key))
    mixed.suffixes = dict(sorted(Counter(sample.suffix for sample in samples).items()))
    by_key = _sources(plan, samples, survey, originals)
    for split in plan.mix.splits:
        of_split = [sample for sample in samples if sample.split == split]
        if not of_split:
            continue
        objects = objects_of(plan, split, name, of_split, by_key)
        sizes = [put(output, path, data) for path, data in objects.items()]
        path, data = list(objects.items())[-1]  # of the others it holds the digests, if any
        mixed.splits[split] = replace(
            mixed.splits[split],
            tar=path,
            bytes=sizes[-1],
            sha256=digest_of(data),
            bytes_listed=sum(sizes[:-1]),
        )
    output.put(marker_name(name), sealed_json(mixed.tree()))
    return mixed, wrong


def _sources(
    plan: MixPlan,
    samples: list[MixedSample],
    survey: Survey,
    originals: Callable[[], list[Sample]],
) -> dict[str, Sample]:
    """For pairs, the originals of the edits by key, each checked; else none."""
    if plan.mix.format != "pairs" or not samples:
        return {}
    by_key = {sample.key: sample for sample in originals()}
    keys = dict.fromkeys(sample.record["key"] for sample in samples)
    return {key: original(by_key, survey, key) for key in keys}


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
    wrong = [*wrong_counts(mixed), *wrong_objects(output, mixed)]
    for split in {*mixed.splits, *planned.images}:
        found, take = mixed.splits.get(split, MixedSplit()), planned.take.get(split, 0)
        if (found.original, found.edited) != (planned.images.get(split, 0), take):
            wrong.append(f"the marker's counts of {split} are not those of the plan")
    return mixed, wrong


def record_plan(plan: MixPlan) -> None:
    """Writes the plan's identity to the output, unless an earlier run has."""
    plan.output.put_if_absent(PLAN_FILE, sealed_json(plan.identity()))


def _chosen(plan: MixPlan, planned: PlannedShard, survey: Survey) -> Chosen:
    """The chosen edits, by split."""
    chosen = {}
    for split, edits in survey.edits.items():
        by_id = {edit.id: edit for edit in edits}
        count, seed = planned.take[split], plan.mix.seed
        ids = choose_edits(list(by_id), count, shard=survey.name, seed=seed)
        chosen[split] = [by_id[each] for each in ids]
    return chosen


def _account(survey: Survey, chosen: Chosen) -> MixedShard:
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
