"""Splits, quotas and choices are decided by hashes, in any order, with exact counts."""

from __future__ import annotations

import hashlib
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.mix.choose import (
    AMBIGUOUS,
    UNLABELED,
    EditId,
    choose_edits,
    label_of,
    quotas,
    split_of,
)

SPLITS = {"train": 0.8, "val": 0.1, "test": 0.1}


def test_splits_have_their_shares() -> None:
    """Shares of 4000 images are right to three standard deviations; another seed differs."""
    digests = [hashlib.sha256(bytes([n % 256, n // 256])).hexdigest() for n in range(4000)]
    first = [split_of(digest, SPLITS, 0) for digest in digests]
    counts = Counter(first)
    for name, share in SPLITS.items():
        spread = (4000 * share * (1 - share)) ** 0.5
        assert abs(counts[name] - 4000 * share) < 3 * spread, name
    assert [split_of(digest, SPLITS, 1) for digest in digests] != first


@given(st.lists(st.integers(0, 50), max_size=20), st.integers(0, 500))
def test_quotas_add_up(available: list[int], wanted: int) -> None:
    """Quotas sum to the wanted number, or to all available; each is in proportion to its shard."""
    takes = quotas(available, wanted)
    assert sum(takes) == min(wanted, sum(available))
    for take, count in zip(takes, available, strict=True):
        assert 0 <= take <= count
        if sum(available):
            share = count * min(1, wanted / sum(available))
            assert abs(take - share) < 1 + 1e-9


def test_every_image_gives_one_edit_before_any_gives_two() -> None:
    """Of six edits chosen from four images, no image has more than two."""
    edits = [EditId(output, key, index) for key in "abcd" for output in (0, 1) for index in (0, 1)]
    chosen = choose_edits(edits, 6, shard="0", seed=3)
    assert sorted(Counter(edit.key for edit in chosen).values()) == [1, 1, 2, 2]
    assert choose_edits(edits[::-1], 6, shard="0", seed=3) == chosen
    assert choose_edits(edits, 6, shard="0", seed=4) != chosen
    assert choose_edits(edits, 6, shard="1", seed=3) != chosen


def test_label_comes_from_the_words_of_the_edit_text() -> None:
    """Whole words count in any case; two words of one class are allowed, two classes are not."""
    labels: dict[str, int | str] = {"cat": 3, "kitten": 3, "night sky": 5, "fox": 7}
    assert label_of("A Cat, or a kitten", labels) == 3
    assert label_of("stars in the night sky", labels) == 5
    with pytest.raises(ValueError, match=UNLABELED):
        label_of("a catalogue", labels)
    with pytest.raises(ValueError, match=AMBIGUOUS):
        label_of("a cat and a fox", labels)
