"""The benchmark of the handover: both forms give back every bit, whatever the arrays lie in."""

from __future__ import annotations

import pytest

from infra.benchmarks.handover import Shape, arrays_of, drawn_part, measured


@pytest.mark.parametrize("form", ["stacked", "apart"])
def test_both_forms_are_timed_over_the_same_part(form: str) -> None:
    """Its own checks compare the arrays; the sizes are those of the shape."""
    shape = Shape(64, 4, 3)
    found = measured(shape, 2, 2, form)
    one = 64 * 64 * 3 + 8 * 8 * (4 * 4 + 3 * 4 * 2 + 2 * 4)
    assert found["bytes"] == 2 * one == sum(a.nbytes for a in arrays_of(drawn_part(shape, 2, form)))
    steps = ["pack_before", "unpack_before", "pack", "store", "unpack", "stack"]
    assert {step: len(values) for step, values in found["seconds"].items()} == dict.fromkeys(
        steps, 2
    )
