"""Groups the files of a tar into samples, and finds the samples that damage took a file from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from pipeline.config.input import Input
from pipeline.steps.texts import SampleError
from pipeline.storage.archive import TarContents, split_at_first_dot
from pipeline.storage.content import Span
from pipeline.storage.tar_walk import Damage, suffix_lost

EMPTY = Span(b"", 0, 0)


@dataclass
class RawSample:
    """The files of one key, by suffix in lower case, as ranges of the tar."""

    key: str
    members: dict[str, Span] = field(default_factory=dict)
    problems: list[SampleError] = field(default_factory=list)  # each fails the sample
    notes: list[str] = field(default_factory=list)  # for its rows

    @classmethod
    def of(cls, key: str, files: Mapping[str, bytes]) -> RawSample:
        """A sample whose files are in memory."""
        return cls(key, {suffix: Span(data, 0, len(data)) for suffix, data in files.items()})


def grouped(contents: TarContents, config: Input) -> list[RawSample]:
    """Files by key, in order of first appearance. As in webdataset, they stand side by side.

    A key that appears again later, a file that appears twice, or one that cannot be read fails the
    whole sample: without it, the sample would be edited as if it never had that file.
    """
    samples: dict[str, RawSample] = {}
    keys: list[str | None] = []  # of each file of the tar
    before: list[str | None] = []  # the last key in front of each file, and of the end
    last: str | None = None
    for member in contents.members:
        key, suffix = split_key(member.name, config)
        keys.append(key)
        before.append(last)
        if key is None or suffix is None:
            continue  # webdataset ignores such files too
        sample = samples.setdefault(key, RawSample(key))
        if sample.members and key != last:
            _fail(sample, "DuplicateKey", "the key appears again later in the shard: a duplicate")
        if suffix in sample.members:
            _fail(sample, "DuplicateKey", f"the member .{suffix} appears more than once")
        if member.data is None:
            _fail(sample, "UnreadableFile", f"the member .{suffix} {member.lost}")
        sample.members[suffix] = EMPTY if member.data is None else member.data
        last = key
    before.append(last)
    for position, damage in contents.damages:
        # Two: the first one's name may have stood in the damaged header, so its key may be wrong.
        after = [key for key in keys[position : position + 2] if key is not None]
        _mark(samples, before[position], after, damage)
    return list(samples.values())


def split_key(name: str, config: Input) -> tuple[str | None, str | None]:
    """Key and suffix (in lower case) of a file's name; None, None if it belongs to no sample.

    ``key_split: dot`` splits at the first dot of the last path component, as webdataset does;
    ``suffix`` at the longest suffix that the configuration names, else at the last dot. Bytes of
    a name that are not UTF-8 are written as \\xNN. Hidden files belong to no sample: macOS's tar
    writes a ``._x.png`` in front of each ``x.png``.
    """
    name = name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
    if name.rpartition("/")[2].startswith("."):
        return None, None
    if config.key_split == "dot":
        key, suffix = split_at_first_dot(name)
        return key, None if suffix is None else suffix.lower()
    known = {*config.image, *config.caption, *config.edits, config.mask, "json"}
    known |= {config.boxes, *config.class_masks}
    for suffix in sorted((s.lower() for s in known if ":" not in s), key=len, reverse=True):
        if name.lower().endswith(f".{suffix}") and not name[: -len(suffix) - 1].endswith("/"):
            return name[: -len(suffix) - 1] or None, suffix
    folder, slash, basename = name.rpartition("/")
    key, dot, suffix = basename.rpartition(".")
    return (folder + slash + key, suffix.lower()) if dot and key else (None, None)


def other_masks(raw: RawSample, config: Input) -> list[str]:
    """A note on files that are called like the mask, but for the format: ``mask.jpg``."""
    mask = config.mask.lower()
    stem = mask.rpartition(".")[0]
    others = [f".{suffix}" for suffix in raw.members if suffix.rpartition(".")[0] == stem]
    if not stem or not others:
        return []
    return [f"no mask was read from {', '.join(others)}: input.mask is {mask}"]


def _mark(
    samples: dict[str, RawSample], before: str | None, after: list[str], damage: Damage
) -> None:
    """Fails the samples that may have lost a file to damage between these keys.

    A damaged header mostly tells whose file it was. Where it does not, both samples beside it fail.
    Where nothing follows, the last sample is whole if it has all files that the others have.
    """
    beside = list(dict.fromkeys(after if before is None else [before, *after]))
    owners = [key for key in beside if _owns(samples[key], damage)]
    for key in owners:
        reason = f"a file of the sample is lost: the shard is damaged at byte {damage.offset}"
        _fail(samples[key], "UnreadableFile", reason)
    if owners or not beside:
        return
    if after:
        reason = f"a file may be lost: the shard is damaged at byte {damage.offset}, beside it"
        for key in beside:
            _fail(samples[key], "UnreadableFile", reason)
        return
    sample = samples[beside[0]]
    lacking = _lacking(samples, sample)
    if lacking:
        reason = f"the shard is cut after it, and it lacks .{lacking[0]}, which all others have"
        _fail(sample, "UnreadableFile", reason)
    else:
        sample.notes.append(
            f"the shard is cut at byte {damage.offset}, after this sample: it may lack a file"
        )


def _owns(sample: RawSample, damage: Damage) -> bool:
    """Whether a damaged header is that of a file which the sample lacks."""
    lost = None if damage.header is None else suffix_lost(damage.header, sample.key)
    return lost is not None and lost not in sample.members


def _lacking(samples: dict[str, RawSample], last: RawSample) -> list[str]:
    """The suffixes that all other samples have and the last one has not."""
    others = [sample.members.keys() for sample in samples.values() if sample is not last]
    common = set.intersection(*map(set, others)) if others else set()
    return sorted(common - last.members.keys())


def _fail(sample: RawSample, kind: str, message: str) -> None:
    sample.problems.append(SampleError(kind, message))
