"""Chooses the split of an image and the edits to take. Decided by hashes, not by any order.

Reads and writes no files.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise
from typing import Literal

from pipeline.records.seeds import hash_words
from pipeline.steps.texts import whole_word

# The beginnings of reasons; what has been searched follows.
UNLABELED = "no word of labels in the"
AMBIGUOUS = "words of several labels in the"


@dataclass(frozen=True, order=True)
class EditId:
    """Identifies an edit in a shard: index of its output, key of its sample, edit index."""

    output: int
    key: str
    index: int


def split_of(source_sha256: str, splits: Mapping[str, float], seed: int) -> str:
    """The split of a source image, the same for all samples with these bytes.

    Args:
        source_sha256: of the encoded image. So an image that occurs under two keys, or in two
            shards, is in one split.
        splits: the share of each split; they sum to 1.
        seed: of the mix.
    """
    position = unit_hash(seed, "split", source_sha256)
    for name, end in zip(splits, accumulate(splits.values()), strict=True):
        if position < end:
            return name
    return list(splits)[-1]  # reached if rounding made the shares' sum less than 1


def label_of(
    text: str, labels: Mapping[str, int | str], what: Literal["edit text", "caption"] = "edit text"
) -> int | str:
    """The class of an image, from the words of ``labels`` that its text contains.

    Whole words count, case is ignored. Several words of the same class are allowed.

    Args:
        text: of the image.
        labels: classes by word.
        what: the text is; for the message.

    Raises:
        ValueError: there is no such word, or words of several classes; the message begins with
            ``UNLABELED`` or ``AMBIGUOUS``.
    """
    found = {label for word, label in labels.items() if whole_word(word).search(text)}
    if len(found) != 1:
        raise ValueError(f"{AMBIGUOUS if found else UNLABELED} {what}")
    return found.pop()


def quotas(available: Sequence[int], wanted: int) -> list[int]:
    """How many edits to take of each shard, in proportion to what it has; ``wanted`` in total.

    Returns:
        At most the available number for each shard; all of them if ``wanted`` exceeds their sum.
    """
    total = sum(available)
    wanted = min(wanted, total)
    ends = [wanted * count // total if total else 0 for count in accumulate(available, initial=0)]
    return [end - start for start, end in pairwise(ends)]


def choose_edits(edits: Sequence[EditId], count: int, *, shard: str, seed: int) -> list[EditId]:
    """Chooses ``count`` of a shard's edits, spread as evenly as possible over its images.

    A second edit of an image is chosen only after a first edit of every image that has any.
    """
    by_key: dict[str, list[tuple[float, EditId]]] = {}
    for edit in edits:
        position = unit_hash(seed, "edit", shard, edit.key, str(edit.output), str(edit.index))
        by_key.setdefault(edit.key, []).append((position, edit))
    ranked = [
        (rank, position, edit)
        for of_image in by_key.values()
        for rank, (position, edit) in enumerate(sorted(of_image))
    ]
    return [edit for _, _, edit in sorted(ranked)[:count]]


def unit_hash(seed: int, *words: str) -> float:
    """A number in [0, 1) that depends only on the arguments."""
    return (hash_words(str(seed), *words) >> 11) / 2**53
