"""CSFID: the squared distance of class means, averaged over the classes."""

from __future__ import annotations

import numpy as np
import pytest

from pipeline.scores.csfid import csfid
from tests.reference import background as reference


def test_csfid_of_a_case_solved_by_hand() -> None:
    """Two classes at distances 5 (3-4-5) and 0 give the mean of 25 and 0."""
    edited = {"cat": np.array([[2.0, 4.0], [4.0, 4.0]]), "dog": np.array([[1.0, 1.0]])}
    real = {"cat": np.zeros(2), "dog": np.array([[0.0, 0.0], [2.0, 2.0]]), "unused": np.ones(2)}
    assert csfid(edited, real) == 12.5


def test_seeded_features_agree_with_the_definition() -> None:
    """float32 features with different numbers per class equal the reference."""
    generator = np.random.default_rng(0)
    edited = {str(n): generator.normal(size=(3 + n, 16)).astype(np.float32) for n in range(5)}
    real = {str(n): generator.normal(n, 1, (20, 16)).astype(np.float32) for n in range(5)}
    assert csfid(edited, real) == pytest.approx(reference.csfid(edited, real), abs=1e-9)


@pytest.mark.parametrize(
    ("edited", "message"),
    [
        ({}, "at least one class"),
        ({"fox": np.ones((1, 2))}, "'fox' has no reference"),
        ({"cat": np.ones((0, 2))}, r"'cat': features of shape \(0, 2\)"),
        ({"cat": np.ones((1, 3))}, "do not agree"),
    ],
)
def test_bad_features_are_named(edited: dict[str, np.ndarray], message: str) -> None:
    """Features that cannot be compared are an error that names the class."""
    with pytest.raises(ValueError, match=message):
        csfid(edited, {"cat": np.zeros((4, 2))})
