"""The audit of a mix: reads all of its tars and compares them with markers, plan and manifest."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field

from pipeline.mix.formats import files_of, totals_of, wrong_objects
from pipeline.mix.marker import (
    CARD,
    MANIFEST,
    MARKERS,
    PLAN_FILE,
    Manifest,
    marker_name,
    read_manifest,
    read_mixed,
    read_plan,
    wrong_counts,
)
from pipeline.mix.survey import MixError
from pipeline.mix.totals import total_names
from pipeline.records.run_files import RunFileError
from pipeline.storage.store import Store


@dataclass
class MixReport:
    """The result of an audit. The mix is right if ``problems`` is empty."""

    problems: list[str] = field(default_factory=list)  # one line each
    counts: Counter[str] = field(default_factory=Counter)  # original and edited samples
    num_shards: int = 0


def is_mix(output: Store) -> bool:
    """Whether a folder holds a mix, and not a run's output."""
    return bool(output.list("_mix/"))


def verify_mix(output: Store) -> MixReport:
    """Audits a mix: every shard of its plan, every tar of a shard, the sums, stray objects.

    Raises:
        OSError: the store cannot be listed or read.
    """
    report = MixReport()
    listing = output.list()
    planned, splits, form = [], [], "webdataset"
    try:
        plan = read_plan(output)
        planned = [str(shard.get("name")) for shard in plan.shards]
        splits, form = list(plan.mix.get("splits", {})), str(plan.mix.get("format", form))
    except FileNotFoundError:
        report.problems.append(f"{PLAN_FILE}: missing, so the shards of the mix are unknown")
    except (RunFileError, TypeError) as error:
        report.problems.append(str(error))
    marked = [name[len(MARKERS) : -len(".json")] for name in listing if name.startswith(MARKERS)]
    expected = {PLAN_FILE, MANIFEST, CARD, *map(marker_name, marked)}
    tars: dict[str, list[str]] = {}
    sums: dict[str, Counter[str]] = {}
    for shard in dict.fromkeys([*planned, *sorted(marked)]):
        try:
            mixed = read_mixed(output, shard)
        except FileNotFoundError:
            report.problems.append(f"{shard}: is not mixed yet; run the same mix again")
            continue
        except (RunFileError, ValueError) as error:
            report.problems.append(f"{shard}: {error}")
            continue
        report.num_shards += 1
        report.problems += (f"{shard}: {line}" for line in wrong_counts(mixed))
        wrong = wrong_objects(output, mixed, count=True)
        report.problems += (f"{shard}: {line}" for line in wrong)
        for name, split in mixed.splits.items():
            sums.setdefault(name, Counter()).update(original=split.original, edited=split.edited)
            tars.setdefault(name, []).extend([split.tar] if split.tar else [])
        expected |= {name for split in mixed.splits.values() for name in files_of(output, split)}
    expected |= set(total_names(form, splits))
    if planned and not report.problems:
        in_order = {split: tars.get(split, []) for split in splits}
        report.problems += _wrong_totals(output, form, in_order)
    report.problems += _wrong_manifest(output, sums, tars)
    report.problems += (f"{name}: belongs to no mixed shard" for name in set(listing) - expected)
    report.counts = sum(sums.values(), Counter())
    return report


def _wrong_totals(output: Store, form: str, tars: dict[str, list[str]]) -> Iterator[str]:
    """Compares the files of the whole mix with what its pages say."""
    try:
        for name, data in totals_of(form, output, tars):
            if not output.exists(name) or output.get(name) != data:
                yield f"{name} is missing or not what the shards say; run the same mix again"
    except (MixError, ValueError, TypeError, KeyError, AttributeError, FileNotFoundError) as error:
        yield f"the files of the whole mix cannot be checked: {error}"


def _wrong_manifest(
    output: Store, sums: dict[str, Counter[str]], tars: dict[str, list[str]]
) -> Iterator[str]:
    try:
        manifest: Manifest = read_manifest(output)
    except FileNotFoundError:
        yield f"{MANIFEST}: missing, so the mix has not ended; run the same mix again"
        return
    except RunFileError as error:
        yield str(error)
        return
    for name in sorted({*manifest.splits, *sums}):
        said = manifest.splits.get(name)
        found = sums.get(name, Counter())
        if said is None or (said.original, said.edited) != (found["original"], found["edited"]):
            yield f"{MANIFEST}: the counts of {name} are not the sums of the markers"
        if said is not None and sorted(said.shards) != sorted(tars.get(name, [])):
            yield f"{MANIFEST}: the shards of {name} are not those of the markers"
