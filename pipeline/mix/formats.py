"""What a shard of a mix becomes in each format, and whether it still is what its marker says."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath

import pyarrow as pa

from pipeline.mix.marker import MixedShard, MixedSplit
from pipeline.mix.pairs import pair_row
from pipeline.mix.plan import MixPlan
from pipeline.mix.samples import MixedSample
from pipeline.mix.tables import MIXED, PAIRS, mixed_row, num_rows, spooled_table
from pipeline.mix.totals import totals
from pipeline.mix.trees import TREES, Page, tree_objects
from pipeline.records.part import Sample
from pipeline.storage.archive import find_members
from pipeline.storage.content import Content, Span, sha256_of
from pipeline.storage.layout import tar_name
from pipeline.storage.retry import StorageError
from pipeline.storage.scratch import Spool
from pipeline.storage.store import Store
from pipeline.storage.tar_write import SampleTar

Object = bytes | Span | Spool
Objects = Mapping[str, Object]  # by name, in the order in which they are written


def objects_of(
    plan: MixPlan,
    split: str,
    shard: str,
    samples: Sequence[MixedSample],
    originals: Mapping[str, Sample],
) -> Objects:
    """The objects of a shard in a split. The last one stands in the marker.

    Args:
        plan: the mix.
        split: with at least one sample.
        shard: its name.
        samples: in the order in which they are written.
        originals: by key; for pairs.

    Raises:
        MixError: the format cannot hold a sample.
    """
    mix = plan.mix
    form = mix.format
    if form in TREES:
        return tree_objects(form, split, shard, samples, mix.label_member)
    if form == "parquet":
        rows = (mixed_row(sample, mix.label_member) for sample in samples)
        return {f"{split}/{shard}.parquet": spooled_table(rows, MIXED)}
    if form == "pairs":
        configs = plan.run_configs
        rows = (
            pair_row(edit, originals[edit.record["key"]], configs[edit.record["output"]])
            for edit in samples
        )
        return {f"{split}/{shard}.parquet": spooled_table(rows, PAIRS)}
    tar = SampleTar()
    for sample in samples:
        tar.add(sample.key, sample.members)
    return {f"{split}/{tar_name(shard)}": tar.finished()}


def put(output: Store, name: str, data: Object) -> int:
    """Writes an object; returns its size."""
    if isinstance(data, Spool):
        output.put_spooled(name, data)
        return data.size
    output.put(name, bytes(data))
    return len(data)


def digest_of(data: Object) -> str:
    """An object's sha256."""
    return data.sha256 if isinstance(data, Spool) else sha256_of(bytes(data))


def wrong_objects(output: Store, mixed: MixedShard, *, count: bool = False) -> Iterator[str]:
    """A line for each object of a shard that is not what its marker says. Reads all of them.

    Args:
        output: of the mix.
        mixed: the marker.
        count: also compare the number of samples.
    """
    for split in mixed.splits.values():
        if split.tar is None:
            continue
        data, problem = _read(output, split.tar, split.bytes, split.sha256, "the marker")
        if problem:
            yield problem
            continue
        found, lines = _contents(output, split.tar, data)
        yield from lines
        if count and found is not None and found != split.original + split.edited:
            yield (
                f"{split.tar} holds {found} samples, the marker says "
                f"{split.original + split.edited}"
            )


def files_of(output: Store, split: MixedSplit) -> list[str]:
    """The names of all objects of a shard in a split; a page that cannot be read is only itself."""
    if split.tar is None:
        return []
    if not split.tar.endswith(".json"):
        return [split.tar]
    try:
        return [split.tar, *(name for name, _, _ in Page.from_bytes(output.get(split.tar)).files)]
    except (ValueError, TypeError, KeyError, FileNotFoundError, StorageError):
        return [split.tar]


@dataclass(frozen=True)
class _Pages:
    """The pages of a split, read anew in each pass."""

    output: Store
    names: list[str]

    def __iter__(self) -> Iterator[Page]:
        for name in self.names:
            yield Page.from_bytes(self.output.get(name))


def totals_of(
    form: str, output: Store, tars: Mapping[str, list[str]]
) -> Iterator[tuple[str, bytes]]:
    """The files of the whole mix, by name, made of the pages of its shards.

    Args:
        form: of the mix.
        output: of the mix, with all pages.
        tars: the marked objects of each split, in the order of the shards.

    Raises:
        MixError: shards contradict each other.
        ValueError, TypeError, KeyError, OSError: a page cannot be read.
    """
    if form in TREES:
        yield from totals(form, {split: _Pages(output, names) for split, names in tars.items()})


def data_files(form: str, split: str) -> str | None:
    """The pattern of a split's files for ``load_dataset``; None if it does not read the format."""
    patterns = {
        "webdataset": f"{split}/**/*.tar",
        "parquet": f"{split}/**/*.parquet",
        "pairs": f"{split}/**/*.parquet",
        "imagefolder": f"{split}/**",
    }
    return patterns.get(form)


def _contents(output: Store, name: str, data: Content) -> tuple[int | None, list[str]]:
    """The number of samples in a marked object, None if unknown, and what is wrong in it."""
    kind = PurePosixPath(name).suffix
    try:
        if kind == ".tar":
            members, problem = find_members(data)
            keys = {name.partition(".")[0] for name, _ in members}
            return len(keys), [f"{name} is {problem}"] if problem else []
        if kind == ".parquet":
            return num_rows(data), []
        page = Page.from_bytes(data[:])
    except (pa.ArrowException, OSError, ValueError, TypeError, KeyError) as error:
        return None, [f"{name} cannot be read: {type(error).__name__}"]
    lines = [
        problem
        for file, size, digest in page.files
        if (problem := _read(output, file, size, digest, "its page")[1])
    ]
    return len(page.entries), lines


def _read(
    output: Store, name: str, size: int, sha256: str | None, by: str
) -> tuple[Content, str | None]:
    """An object, empty if it cannot be read, and how it differs from what is said of it, if so."""
    try:
        data = output.open(name)
        if len(data) != size:
            return data, f"{name} has {len(data)} bytes, {by} says {size}"
        if sha256_of(data) != sha256:
            return data, f"{name} does not have the sha256 in {by}"
    except (FileNotFoundError, StorageError, ValueError) as error:
        return b"", f"{name} cannot be read: {type(error).__name__}"
    return data, None
