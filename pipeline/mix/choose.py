"""Which split an image is in, and which edits are taken: decided by hashes, never by an order.

Nothing here touches a file.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise

from pipeline.records.seeds import hash_words
from pipeline.steps.texts import whole_word

UNLABELLED = "no word of labels in the edit text"
AMBIGUOUS = "words of several labels in the edit text"


@dataclass(frozen=True, order=True)
class EditId:
    """One edit of a shard: the number of its output, its sample's key, its index there."""

    output: int
    key: str
    index: int


def split_of(source_sha256: str, splits: Mapping[str, float], seed: int) -> str:
    """The split of a source image, the same for all samples that hold these bytes.

    Args:
        source_sha256: of the encoded image, so that an image that is there under two keys, or
            in two shards, is in one split.
        splits: the share of each, 1 in all.
        seed: of the mix.
    """
    place = unit_hash(seed, "split", source_sha256)
    for name, end in zip(splits, accumulate(splits.values()), strict=True):
        if place < end:
            return name
    return list(splits)[-1]  # the shares' sum was rounded down


def label_of(edit_text: str, labels: Mapping[str, int | str]) -> int | str:
    """The class that an edit text asks for: of the only word of ``labels`` that it has.

    Whole words, whatever their case. Two words of one class agree.

    Raises:
        ValueError: no word or words of several classes; the message is ``UNLABELLED`` or
            ``AMBIGUOUS``.
    """
    found = {label for word, label in labels.items() if whole_word(word).search(edit_text)}
    if len(found) != 1:
        raise ValueError(AMBIGUOUS if found else UNLABELLED)
    return found.pop()


def quotas(available: Sequence[int], wanted: int) -> list[int]:
    """How many edits each shard gives, in proportion to what it has; ``wanted`` in all.

    Returns:
        At most what is available of each; if ``wanted`` is more than there are, all of them.
    """
    total = sum(available)
    wanted = min(wanted, total)
    ends = [wanted * count // total if total else 0 for count in accumulate(available, initial=0)]
    return [end - start for start, end in pairwise(ends)]


def choose_edits(edits: Sequence[EditId], count: int, *, shard: str, seed: int) -> list[EditId]:
    """``count`` of a shard's edits, as evenly over its images as can be.

    A second edit of an image is taken only when every image that has one has given its first.
    """
    by_key: dict[str, list[tuple[float, EditId]]] = {}
    for edit in edits:
        place = unit_hash(seed, "edit", shard, edit.key, str(edit.output), str(edit.index))
        by_key.setdefault(edit.key, []).append((place, edit))
    turns = [
        (turn, place, edit)
        for of_image in by_key.values()
        for turn, (place, edit) in enumerate(sorted(of_image))
    ]
    return [edit for _, _, edit in sorted(turns)[:count]]


def unit_hash(seed: int, *words: str) -> float:
    """A number in [0, 1) that depends on its arguments alone."""
    return (hash_words(str(seed), *words) >> 11) / 2**53
