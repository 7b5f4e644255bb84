"""The first step: reads the samples of a shard and cuts them into parts."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import cast

from pipeline.config.input import Input
from pipeline.records.part import Edit, Part, Sample, Status
from pipeline.steps.cut_parts import by_shape, first_edits, plan_parts
from pipeline.steps.grouping import RawSample, grouped, other_masks
from pipeline.steps.limits import check_files, check_texts
from pipeline.steps.texts import (
    SampleError,
    caption_of,
    edit_texts_of,
    own_settings,
    parse_json,
)
from pipeline.storage.archive import read_tar
from pipeline.storage.content import Content
from pipeline.storage.formats import BadShardError, what_it_is
from pipeline.storage.layout import PartId, generation_of
from pipeline.storage.shards import InputShard

LEFT_OUT = "not passed through, by input.pass_through:"


@dataclass
class ShardContents:
    """Everything that could be read from a shard."""

    samples: list[Sample]
    problem: str | None = None  # why it could not be read completely: "truncated: ..."
    num_files: int = 0  # in the tar, those that cannot be read too


def read_parts(
    shard: InputShard,
    config: Input,
    part_size: int,
    *,
    group_shapes: bool = False,
    skip: Collection[PartId] = (),
    max_edits: int | None = None,
    ranges: bool = False,
) -> Iterator[Part]:
    """Yields the parts of a shard in order. Each knows how many there are.

    Args:
        shard: as ``expand_shards`` froze it.
        config: which member of a sample is what.
        part_size: edits in a part.
        group_shapes: images of like shapes share parts, since a batch is of one size: the samples
            of the shard are in the order of their shapes. Else they are in their own.
        skip: parts that are already staged.
        max_edits: take at most so many edits from the start of the shard; None takes all.
        ranges: leave the samples' files where they are: each is read when it is made ``bytes``. So
            a part takes no memory before it is packed; see ``owned``.

    Returns:
        Parts with the encoded images of the shard. A shard without samples is one part without
        images, so it is published empty.

    Raises:
        BadShardError: it is no tar; or it cannot be read completely, and ``input.on_bad_shard`` is
            "fail".
        ChangedError, OSError: the store cannot return the object that was listed.
    """
    data, digest = shard.open(config.storage_options)
    generation = generation_of(digest, max_edits)
    contents = read_shard(data, config, ranges=True)
    if contents.problem is not None and not contents.num_files:
        raise BadShardError(f"{shard.url}: {what_it_is(data)}; it is read again in the next run")
    if contents.problem is not None and config.on_bad_shard == "fail":
        raise BadShardError(
            f"{shard.url}: {contents.problem}; input.on_bad_shard: publish would go on with the "
            f"{len(contents.samples)} samples that can be read"
        )
    samples = first_edits(contents.samples, max_edits)
    planned = plan_parts(by_shape(samples, config) if group_shapes else samples, part_size)
    for index, of_part in enumerate(planned):
        if (generation, len(planned), index) not in skip:
            yield Part(
                *(shard.name, index, len(planned)),
                *(of_part if ranges else owned(of_part), contents.problem),
                input_sha256=digest,
                generation=generation,
            )


def count_edits(shard: InputShard, config: Input) -> int:
    """Counts the edits (rows) of a shard, for ``input.limit``. Reads all of it."""
    try:
        data = shard.open(config.storage_options)[0]
    except BadShardError:  # the run reads it again, and says so
        return 0
    samples = read_shard(data, config, ranges=True).samples
    return sum(len(sample.edits) for sample in samples)


def read_shard(data: Content, config: Input, *, ranges: bool = False) -> ShardContents:
    """All samples of a tar, in order. A bad sample has failed edits that say why.

    Never raises because of what the bytes contain.

    Args:
        data: the whole tar.
        config: which member of a sample is what.
        ranges: leave the samples' files where they are; see ``read_parts``.
    """
    tar = read_tar(data)
    samples = [to_sample(raw, config) for raw in grouped(tar, config)]
    problem = tar.problem
    if tar.members and not samples:
        problem = problem or f"none of its {len(tar.members)} files has a key and a suffix"
    return ShardContents(samples if ranges else owned(samples), problem, len(tar.members))


def owned(samples: list[Sample]) -> list[Sample]:
    """The same samples with their files read."""
    return [
        replace(
            sample,
            encoded=_bytes(sample.encoded),
            encoded_mask=_bytes(sample.encoded_mask),
            extras={name: bytes(data) for name, data in sample.extras.items()},
        )
        for sample in samples
    ]


def _bytes(data: bytes | None) -> bytes | None:
    return None if data is None else bytes(data)


def read_originals(data: Content, config: Input) -> list[Sample]:
    """The samples of a tar that have an image and a caption, without their edits.

    Problems with a sample's edit texts do not matter here. The files stay ranges of the tar: each
    is read when it is made ``bytes``.
    """
    originals = []
    for raw in grouped(read_tar(data), config):
        sample = Sample(raw.key)
        with suppress(SampleError):
            _read_original(sample, raw, config)
            originals.append(sample)
    return originals


def to_sample(raw: RawSample, config: Input) -> Sample:
    """A sample with its edits, or with one failed edit of index -1 that says why."""
    sample = Sample(raw.key)
    try:
        _read_original(sample, raw, config)
        texts = edit_texts_of(raw.members, sample.metadata, sample.caption or "", config)
        json_bytes = len(raw.members.get("json", b""))
        check_texts(sample.caption or "", texts, json_bytes, sample.extras)
    except SampleError as error:
        sample.encoded = sample.encoded_mask = None
        sample.extras, sample.metadata = {}, {}
        if error.kind in ("TooLarge", "TooManyEdits"):
            sample.caption = None
        edit = Edit(-1, notes=list(raw.notes))
        edit.fail("read", error.kind, error.message)
        if error.skips:
            edit.status = Status.SKIPPED
        sample.edits = [edit]
        return sample
    for index, text in enumerate(texts):
        edit = Edit(index, text, notes=list(raw.notes))
        if not text.strip():
            edit.fail("read", "EmptyText", "the edit text is empty")
        sample.edits.append(edit)
    return sample


def _read_original(sample: Sample, raw: RawSample, config: Input) -> None:
    """Reads everything but the edits into ``sample``. Raises SampleError; what was read stays."""
    if raw.problems:
        raise raw.problems[0]
    check_files(raw.members)
    sample.suffix = _image_suffix(raw, config)
    # Files are ranges of the shard until a part is yielded (owned).
    sample.encoded = cast(bytes, raw.members[sample.suffix])
    sample.source_sha256 = hashlib.sha256(bytes(sample.encoded)).hexdigest()
    if "json" in raw.members:
        sample.metadata, notes = parse_json(bytes(raw.members["json"]))
        raw.notes += notes
    sample.settings = own_settings(sample.metadata)
    sample.caption = caption_of(raw.members, sample.metadata, config)
    sample.encoded_mask = cast(bytes | None, raw.members.get(config.mask.lower()))
    if sample.encoded_mask is None:
        raw.notes += other_masks(raw, config)
    sample.extras, left_out = _extras(raw, sample, config)
    if left_out:
        raw.notes.append(f"{LEFT_OUT} {', '.join(f'.{suffix}' for suffix in left_out)}")


def _image_suffix(raw: RawSample, config: Input) -> str:
    suffixes = [suffix.lower() for suffix in config.image]
    for suffix in suffixes:
        if suffix in raw.members:
            return suffix
    wanted = " ".join(f".{suffix}" for suffix in suffixes)
    mask = config.mask.lower()
    for suffix in raw.members:
        if suffix != mask and suffix.endswith(tuple(f".{known}" for known in suffixes)):
            raise SampleError(
                "NoImage",
                f"none of {wanted}, but .{suffix}: the key ends at the first dot of its name; "
                f"input.key_split: suffix would end it at the longest known suffix",
            )
    raise SampleError("NoImage", f"the sample has no image: none of {wanted}")


def _extras(raw: RawSample, sample: Sample, config: Input) -> tuple[dict[str, bytes], list[str]]:
    """The files to pass through, of those that no key of the configuration reads; and the others.

    Those whose last suffix is not in ``input.pass_through`` are left out: most loaders decode by
    suffix, and some formats run code then.
    """
    read = {sample.suffix, config.mask.lower(), "json"}
    read |= {entry.lower() for entry in (*config.caption, *config.edits) if ":" not in entry}
    passed = {suffix.lower() for suffix in config.pass_through}
    extras, left_out = {}, []
    for suffix, data in raw.members.items():
        if suffix in read:
            continue
        if suffix.rpartition(".")[2] in passed:
            extras[suffix] = cast(bytes, data)
        else:
            left_out.append(suffix)
    return extras, left_out
