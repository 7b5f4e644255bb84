"""Runs a mix: writes it shard by shard, then the files of the whole mix and the manifest."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from functools import partial
from typing import Any

from pipeline.config.mix import Mix
from pipeline.mix.card import card
from pipeline.mix.formats import totals_of
from pipeline.mix.marker import CARD, MANIFEST, MixedShard
from pipeline.mix.plan import MixPlan
from pipeline.mix.write import mix_shard, record_plan
from pipeline.records.run_files import sealed_json
from pipeline.storage.readers import in_threads


def run_mix(
    plan: MixPlan, on_shard: Callable[[MixedShard, list[str]], None] | None = None
) -> dict[str, Any]:
    """Writes the shards that are not written yet. After a kill, the same call resumes.

    Shards that an earlier call has written are read and compared with their markers; a shard whose
    marker or tar is damaged or missing is written anew.

    Of ``mix.workers`` shards at a time memory holds the JSON files, and scratch disk what is
    written; of each other shard a few numbers.

    Args:
        plan: from ``make_mix_plan``.
        on_shard: called for every shard, including those written before, with its marker and a
            line for each object that was damaged or missing.

    Returns:
        The manifest, as written. The data set card is written once: it is its owner's to change.

    Raises:
        MixError: the input or an output has changed since the plan was made.
        OSError: a store cannot be read or written.
    """
    record_plan(plan)
    manifest = _Manifest(plan)
    workers = plan.mix.workers
    for _, (mixed, mended) in in_threads(
        partial(mix_shard, plan), plan.shards, threads=workers, window=workers
    ):
        manifest.add(mixed)
        if on_shard is not None:
            on_shard(mixed, mended)
    for name, data in totals_of(plan.mix.format, plan.output, manifest.tars):
        plan.output.put(name, data)
    tree = manifest.tree()
    plan.output.put_if_absent(CARD, card(plan, tree, manifest.suffixes))
    plan.output.put(MANIFEST, sealed_json(tree))
    return tree


class _Manifest:
    """Adds up the markers, in the order of the shards."""

    def __init__(self, plan: MixPlan) -> None:
        self.plan = plan
        self.splits: dict[str, Counter[str]] = {name: Counter() for name in plan.mix.splits}
        self.tars: dict[str, list[str]] = {name: [] for name in plan.mix.splits}
        self.images, self.edits = Counter[str](), Counter[str]()
        self.images_left_out, self.edits_left_out = Counter[str](), Counter[str]()
        self.suffixes = Counter[str]()
        self.class_of_source = 0
        self.problems: dict[str, str] = {}

    def add(self, mixed: MixedShard) -> None:
        for name, item in mixed.splits.items():
            size = item.bytes + item.bytes_listed
            self.splits[name].update(original=item.original, edited=item.edited, bytes=size)
            if item.tar is not None:
                self.tars[name].append(item.tar)
        self.images["all"] += mixed.num_images
        self.edits["all"] += mixed.num_rows
        self.images_left_out.update(mixed.images_left_out)
        self.edits_left_out.update(mixed.edits_left_out)
        self.suffixes.update(mixed.suffixes)
        self.class_of_source += mixed.class_of_source
        if mixed.problem:
            self.problems[mixed.shard] = mixed.problem

    def tree(self) -> dict[str, Any]:
        mix = self.plan.mix
        return {
            "input": mix.input.shards,
            "edited": mix.edited.paths,
            "settings": mix.model_dump(
                mode="json", include={"format", "ratio", "splits", "edits_in", "labels", "seed"}
            ),
            "splits": {name: self._split(name, mix) for name in mix.splits},
            "pictures": {
                "all": self.images["all"],
                "left_out": dict(sorted(self.images_left_out.items())),
            },
            "edits": {
                "all": self.edits["all"],
                "left_out": dict(sorted(self.edits_left_out.items())),
                "with_the_class_of_their_source": self.class_of_source,
            },
            "shards_without_edits": self.plan.num_without_edits,
            "problems": self.problems,
        }

    def _split(self, name: str, mix: Mix) -> dict[str, Any]:
        counts, tars = self.splits[name], self.tars[name]
        tree: dict[str, Any] = {"original": counts["original"], "edited": counts["edited"]}
        if name in mix.edited_splits:
            tree |= {
                "edited_wanted": self.plan.wanted(name),
                "edited_available": self.plan.total("available", name),
                "weight_of_an_edit": self.plan.weight(name),
            }
        return tree | {"bytes": counts["bytes"], "num_shards": len(tars), "shards": tars}
