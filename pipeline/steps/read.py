"""The first step: reads the samples of a shard and cuts them into parts."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterator
from contextlib import suppress
from dataclasses import dataclass, field, replace

from pipeline.config.input import Input
from pipeline.records.part import Edit, Part, Sample
from pipeline.steps.texts import SampleError, caption_of, edit_texts_of, parse_json
from pipeline.storage.archive import read_members, split_at_first_dot
from pipeline.storage.retry import StorageError
from pipeline.storage.shards import InputShard

# Settings that key.json may give for its sample; the method checks the ranges.
SETTINGS = ("encode_ratio", "strength", "guidance_scale", "seed")


class BadShardError(StorageError):
    """A shard that cannot be read to its end, where ``input.on_bad_shard`` is "fail"."""


@dataclass
class ShardContents:
    """Everything that could be read from a shard."""

    samples: list[Sample]
    problem: str | None = None  # why it could not be read to its end: "truncated: ..."


@dataclass
class RawSample:
    """The files of one key, by suffix in lower case, as read from the tar."""

    key: str
    members: dict[str, bytes] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)


def read_parts(
    shard: InputShard,
    config: Input,
    part_size: int,
    *,
    skip: Collection[int] = (),
    max_edits: int | None = None,
) -> Iterator[Part]:
    """Yields the parts of a shard in order. Each knows how many there are.

    Args:
        shard: as ``expand_shards`` froze it.
        config: which member of a sample is what.
        part_size: edits in a part.
        skip: indices of parts that are already staged.
        max_edits: take at most so many edits from the start of the shard; None takes all.

    Returns:
        Parts with the encoded images of the shard. A shard without samples is one part without
        images, so it is published empty.

    Raises:
        BadShardError: see there.
        ChangedError, OSError: the store cannot return the object that was listed.
    """
    contents = read_shard(shard.read(config.storage_options), config)
    if contents.problem is not None and config.on_bad_shard == "fail":
        raise BadShardError(
            f"{shard.url}: {contents.problem}; input.on_bad_shard: publish would go on with the "
            f"{len(contents.samples)} samples that can be read"
        )
    planned = plan_parts(first_edits(contents.samples, max_edits), part_size)
    for index, samples in enumerate(planned):
        if index not in skip:
            yield Part(shard.name, index, len(planned), samples, problem=contents.problem)


def count_edits(shard: InputShard, config: Input) -> int:
    """Counts the edits (rows) of a shard, for ``input.limit``. Reads all of it."""
    samples = read_shard(shard.read(config.storage_options), config).samples
    return sum(len(sample.edits) for sample in samples)


def read_shard(data: bytes, config: Input) -> ShardContents:
    """All samples of a tar, in order. A bad sample has failed edits that say why.

    Never raises because of what the bytes contain.
    """
    members, problem = read_members(data)
    samples = _grouped(members, config)
    return ShardContents([to_sample(raw, config) for raw in samples], problem)


def read_originals(data: bytes, config: Input) -> list[Sample]:
    """The samples of a tar that have an image and a caption, without their edits.

    Problems with a sample's edit texts do not matter here.
    """
    originals = []
    for raw in _grouped(read_members(data)[0], config):
        sample = Sample(raw.key)
        with suppress(SampleError):
            _read_original(sample, raw, config)
            originals.append(sample)
    return originals


def plan_parts(samples: list[Sample], part_size: int) -> list[list[Sample]]:
    """Cuts a shard's samples into parts of at most ``part_size`` edits; at least one part.

    A part closes before a sample whose edits would not fit. Only a sample with more edits than a
    part holds is split; its pieces share the encoded image.
    """
    parts: list[list[Sample]] = [[]]
    room = part_size
    for sample in samples:
        for start in range(0, len(sample.edits), part_size):
            piece = sample.edits[start : start + part_size]
            if len(piece) > room:  # a whole image, or a piece that fills a part by itself
                parts.append([])
                room = part_size
            parts[-1].append(replace(sample, edits=piece))
            room -= len(piece)
    return parts


def first_edits(samples: list[Sample], max_edits: int | None) -> list[Sample]:
    """The first samples with at most so many edits in total; the last one may lose some."""
    if max_edits is None:
        return samples
    taken, left = [], max_edits
    for sample in samples:
        if left <= 0:
            break
        taken.append(replace(sample, edits=sample.edits[:left]))
        left -= len(sample.edits)
    return taken


def to_sample(raw: RawSample, config: Input) -> Sample:
    """A sample with its edits, or with one failed edit of index -1 that says why."""
    sample = Sample(raw.key)
    try:
        _read_original(sample, raw, config)
        texts = edit_texts_of(raw.members, sample.metadata, sample.caption or "", config)
    except SampleError as error:
        sample.encoded = sample.encoded_mask = None
        sample.extras = {}
        sample.edits = [Edit(-1)]
        sample.fail("read", error.kind, error.message)
        return sample
    for index, text in enumerate(texts):
        edit = Edit(index, text)
        if not text.strip():
            edit.fail("read", "EmptyText", "the edit text is empty")
        sample.edits.append(edit)
    return sample


def _read_original(sample: Sample, raw: RawSample, config: Input) -> None:
    """Reads everything but the edits into ``sample``. Raises SampleError; what was read stays."""
    if raw.problems:
        raise SampleError("DuplicateKey", raw.problems[0])
    sample.suffix = _image_suffix(raw, config)
    sample.encoded = raw.members[sample.suffix]
    sample.source_sha256 = hashlib.sha256(sample.encoded).hexdigest()
    if "json" in raw.members:
        sample.metadata = parse_json(raw.members["json"])
    sample.settings = {k: sample.metadata[k] for k in SETTINGS if k in sample.metadata}
    sample.caption = caption_of(raw.members, sample.metadata, config)
    sample.encoded_mask = raw.members.get(config.mask.lower())
    sample.extras = _extras(raw, sample, config)


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


def _extras(raw: RawSample, sample: Sample, config: Input) -> dict[str, bytes]:
    """The members to pass through: all that no key of the configuration reads."""
    read = {sample.suffix, config.mask.lower(), "json"}
    read |= {entry.lower() for entry in (*config.caption, *config.edits) if ":" not in entry}
    return {suffix: data for suffix, data in raw.members.items() if suffix not in read}


def _grouped(members: list[tuple[str, bytes]], config: Input) -> list[RawSample]:
    """Members by key, in order of first appearance. As in webdataset, they stand side by side.

    A key that appears again later, or a member that appears twice, fails the whole sample: it is
    unknown which members belong together.
    """
    samples: dict[str, RawSample] = {}
    last: str | None = None
    for name, data in members:
        key, suffix = split_key(name, config)
        if key is None or suffix is None:
            continue  # webdataset ignores such members too
        if key not in samples:
            samples[key] = RawSample(key)
        elif key != last:
            samples[key].problems.append("the key appears again later in the shard: a duplicate")
        if suffix in samples[key].members:
            samples[key].problems.append(f"the member .{suffix} appears more than once")
        samples[key].members[suffix] = data
        last = key
    return list(samples.values())


def split_key(name: str, config: Input) -> tuple[str | None, str | None]:
    """Key and suffix (in lower case) of a member's name; None, None if it belongs to no sample.

    ``key_split: dot`` splits at the first dot of the last path component, as webdataset does;
    ``suffix`` at the longest suffix that the configuration names, else at the last dot. Bytes of
    a name that are not UTF-8 are written as \\xNN.
    """
    name = name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
    if config.key_split == "dot":
        key, suffix = split_at_first_dot(name)
        return key, None if suffix is None else suffix.lower()
    known = {*config.image, *config.caption, *config.edits, config.mask, "json"}
    for suffix in sorted((s.lower() for s in known if ":" not in s), key=len, reverse=True):
        if name.lower().endswith(f".{suffix}") and not name[: -len(suffix) - 1].endswith("/"):
            return name[: -len(suffix) - 1] or None, suffix
    folder, slash, basename = name.rpartition("/")
    key, dot, suffix = basename.rpartition(".")
    return (folder + slash + key, suffix.lower()) if dot and key else (None, None)
