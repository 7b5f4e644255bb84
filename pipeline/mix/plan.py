"""Plans a mix: counts the images and edits of every shard before anything is written."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property, partial
from typing import Any

from pipeline.config.config import Config
from pipeline.config.mix import Mix
from pipeline.mix.choose import quotas
from pipeline.mix.marker import VERSION, read_plan
from pipeline.mix.survey import MixError, originals_of, survey_shard
from pipeline.plan.fingerprint import without_implied
from pipeline.plan.run_folder import read_config
from pipeline.storage.layout import marked_shard
from pipeline.storage.one_plan import check_same_plan
from pipeline.storage.readers import in_threads
from pipeline.storage.shards import InputShard, check_output, expand_shards
from pipeline.storage.store import Store


@dataclass(frozen=True)
class PlannedShard:
    """An input shard, and how many of its images and edits go to each split."""

    shard: InputShard
    parquet_sha256: list[str]  # of each output
    images: dict[str, int]  # by split; all of them are used
    available: dict[str, int]  # accepted edits, by split that takes edits
    take: dict[str, int]  # the number of edits to use, by split that takes edits


@dataclass(frozen=True)
class MixPlan:
    """A checked mix."""

    mix: Mix
    shards: list[PlannedShard]
    num_without_edits: int = 0  # input shards that the runs left out because of input.limit

    @property
    def output(self) -> Store:
        return Store(self.mix.output.path, self.mix.output.storage_options)

    @property
    def edited(self) -> list[Store]:
        options = self.mix.edited.storage_options
        return [Store(path, options) for path in self.mix.edited.paths]

    @cached_property
    def run_configs(self) -> list[Config | None]:
        """The configuration of the run that made each output; None: it is not there."""
        return [_config_of(store) for store in self.edited]

    def total(self, what: str, split: str) -> int:
        """The sum over the shards of ``images``, ``available`` or ``take`` in a split."""
        return sum(getattr(shard, what).get(split, 0) for shard in self.shards)

    def wanted(self, split: str) -> int:
        """How many edits the ratio asks for in a split; all that there are without one."""
        if self.mix.ratio is None or self.mix.format == "pairs":
            return self.total("available", split)
        return round_half_up(self.mix.ratio * self.total("images", split))

    def weight(self, split: str) -> float:
        """The weight of an edit in a split that keeps the ratio if there are too few edits."""
        wanted, taken = self.wanted(split), self.total("take", split)
        return 1.0 if taken in (0, wanted) else round(wanted / taken, 6)

    def identity(self) -> dict[str, Any]:
        """Everything that the written bytes depend on; locations do not belong to it."""
        mix = self.mix.model_dump(mode="json", exclude={"output", "edited", "workers"})
        for name in ("shards", "storage_options"):
            del mix["input"][name]
        # Keys that came later count where they are given, so that an older mix can be resumed.
        if self.mix.format == "webdataset":
            del mix["format"]
        mix["input"] = without_implied("input", mix["input"])
        shards = [
            {"name": item.shard.name, "parquet_sha256": item.parquet_sha256, "take": item.take}
            for item in self.shards
        ]
        return {"version": VERSION, "mix": mix, "shards": shards}


def make_mix_plan(mix: Mix) -> MixPlan:
    """Lists originals and outputs, reads all rows once, and decides how many edits to take.

    Raises:
        MixError: the outputs are not of these shards, or not finished, or have changed since the
            mix in ``output.path`` was started; or ``output.path`` holds something else.
        RunFileError: a marker of an output or the mix's own plan cannot be used.
        ValueError, OSError: a path is refused or cannot be read.
    """
    listed = expand_shards(mix.input.shards, mix.input.storage_options)
    check_output(mix.output.path, listed, mix.input.shards)
    plan = MixPlan(mix, [])
    _check_paths(plan)
    shards = _published(plan, listed)
    plan = replace(plan, num_without_edits=len(listed) - len(shards))
    counted = in_threads(partial(_counted, plan), shards, threads=mix.workers, window=mix.workers)
    plan.shards.extend(planned for _, planned in counted)
    for split in mix.edited_splits:
        takes = quotas([shard.available[split] for shard in plan.shards], plan.wanted(split))
        for shard, take in zip(plan.shards, takes, strict=True):
            shard.take[split] = take
    _check_same_mix(plan)
    return plan


def _config_of(output: Store) -> Config | None:
    try:
        return read_config(output)
    except FileNotFoundError:
        return None


def round_half_up(value: float) -> int:
    return math.floor(value + 0.5)


def _counted(plan: MixPlan, shard: InputShard) -> PlannedShard:
    """The counts of a shard's survey. Only these are kept in memory for every shard."""
    survey = survey_shard(plan.edited, shard.name, plan.mix, partial(originals_of, shard, plan.mix))
    images = Counter(survey.originals.values())
    return PlannedShard(
        shard,
        [marker.parquet_sha256 for marker in survey.markers],
        {split: images[split] for split in plan.mix.splits},
        {split: len(edits) for split, edits in survey.edits.items()},
        {},
    )


def _check_paths(plan: MixPlan) -> None:
    """Checks that no edited output is named twice, or contains or is inside the mix's output."""
    for output in plan.edited:
        for inner, outer in ((output.url, plan.output.url), (plan.output.url, output.url)):
            if f"{inner}/".startswith(f"{outer}/"):
                raise MixError(
                    f"output.path={plan.output.url!r} and the edited output {output.url!r} must "
                    "not contain each other; choose another folder for the mix"
                )
    urls = [output.url for output in plan.edited]
    if len(set(urls)) < len(urls):
        raise MixError(f"edited.paths={urls}: an output is named twice")


def _published(plan: MixPlan, listed: Sequence[InputShard]) -> list[InputShard]:
    """The shards to mix: all listed shards, or the published ones if input.limit is set."""
    published = set()
    for output in plan.edited:
        names = {name for item in output.list() if (name := marked_shard(item)) is not None}
        if not names:
            raise MixError(f"{output.url}: nothing is published here")
        unknown = sorted(names - {shard.name for shard in listed})
        if unknown:
            raise MixError(
                f"{output.url}: {len(unknown)} shards are published that input.shards does not "
                f"include, e.g. {unknown[0]}; input.shards must name the originals of the edits"
            )
        published |= names
    missing = [shard.name for shard in listed if shard.name not in published]
    if missing and not plan.mix.input.limit:
        raise MixError(
            f"{len(missing)} of {len(listed)} input shards have no edits yet, e.g. {missing[0]}; "
            "finish the run, or name fewer shards in input.shards"
        )
    return [shard for shard in listed if shard.name in published]


def _check_same_mix(plan: MixPlan) -> None:
    """Checks that the output is empty or holds this same mix: one output holds one mix."""
    check_same_plan(
        plan.output,
        "mix",
        read=lambda: asdict(read_plan(plan.output)),
        wanted=plan.identity(),
        otherwise="the edited outputs have changed, or other ones are named",
        error=MixError,
    )
