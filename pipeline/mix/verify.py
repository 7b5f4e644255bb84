"""The audit of a mix: reads all of its tars and compares them with markers, plan and manifest."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field

from pipeline.mix.marker import (
    MANIFEST,
    MARKERS,
    PLAN_FILE,
    Manifest,
    MixedShard,
    marker_name,
    read_manifest,
    read_mixed,
    read_plan,
    read_tar,
    wrong_counts,
)
from pipeline.records.run_files import RunFileError
from pipeline.storage.archive import read_members
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
    try:
        planned = [str(shard.get("name")) for shard in read_plan(output).shards]
    except FileNotFoundError:
        report.problems.append(f"{PLAN_FILE}: missing, so the shards of the mix are unknown")
        planned = []
    except RunFileError as error:
        report.problems.append(str(error))
        planned = []
    marked = [name[len(MARKERS) : -len(".json")] for name in listing if name.startswith(MARKERS)]
    expected = {PLAN_FILE, MANIFEST, *map(marker_name, marked)}
    tars: dict[str, list[str]] = {}
    sums: dict[str, Counter[str]] = {}
    for shard in sorted({*planned, *marked}):
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
        report.problems += (f"{shard}: {line}" for line in _wrong_tars(output, mixed))
        for name, split in mixed.splits.items():
            sums.setdefault(name, Counter()).update(original=split.original, edited=split.edited)
            tars.setdefault(name, []).extend([split.tar] if split.tar else [])
        expected |= {split.tar for split in mixed.splits.values() if split.tar}
    report.problems += _wrong_manifest(output, sums, tars)
    report.problems += (f"{name}: belongs to no mixed shard" for name in set(listing) - expected)
    report.counts = sum(sums.values(), Counter())
    return report


def _wrong_tars(output: Store, mixed: MixedShard) -> Iterator[str]:
    """Compares each tar, and the number of its samples, with the marker."""
    for split in mixed.splits.values():
        if split.tar is None:
            continue
        data, problem = read_tar(output, split)
        if problem:
            yield problem
            continue
        members, problem = read_members(data)
        if problem:
            yield f"{split.tar} is {problem}"
        samples = {name.partition(".")[0] for name, _ in members}
        if len(samples) != split.original + split.edited:
            yield (
                f"{split.tar} holds {len(samples)} samples, the marker says "
                f"{split.original + split.edited}"
            )


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
