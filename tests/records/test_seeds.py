"""The seeds of noise."""

from __future__ import annotations

import pytest

from pipeline.records.seeds import noise_seed


@pytest.mark.parametrize(
    "other",
    [(1, "s", "k", "mask"), (0, "t", "k", "mask"), (0, "s", "l", "mask"), (0, "s", "k", "encode")],
)
def test_seed_depends_on_every_name(other: tuple) -> None:
    """Another run seed, shard, key or purpose is another noise; the same names are the same."""
    assert noise_seed(0, "s", "k", "mask") != noise_seed(*other)
    assert noise_seed(0, "s", "k", "mask") == noise_seed(0, "s", "k", "mask") < 2**63


def test_seed_differs_by_edit_only_where_asked() -> None:
    """The edit index enters where it is given."""
    assert noise_seed(0, "s", "k", "x", 1) != noise_seed(0, "s", "k", "x", 2)
    assert noise_seed(0, "s", "k", "x", 1) != noise_seed(0, "s", "k", "x")
