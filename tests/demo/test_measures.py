"""Metrics against the ground truth, in cases solved by hand."""

from __future__ import annotations

import numpy as np
import pytest

from pipeline.demo.edits import sample_edit
from pipeline.demo.measures import mask_iou, mask_precision, mask_recall, psnr
from pipeline.demo.readback import Reading, confirms_edit, confirms_rest, reading_of

TRUTH = np.array([[True, True], [False, False]])
MASK = np.array([[True, False], [True, True]])
EDITS = [sample_edit(0, "heldout", index) for index in range(40)]


def test_mask_metrics_of_a_case_solved_by_hand() -> None:
    """One common cell, of four in the union, two true ones and three masked ones."""
    assert mask_iou(MASK, TRUTH) == 1 / 4
    assert mask_recall(MASK, TRUTH) == 1 / 2
    assert mask_precision(MASK, TRUTH) == 1 / 3


def test_metrics_of_empty_masks() -> None:
    """Two empty masks have IoU 1; an empty mask has recall and precision 0."""
    none = np.zeros((2, 2), bool)
    assert mask_iou(none, none) == 1
    assert mask_recall(none, TRUTH) == 0
    assert mask_precision(none, TRUTH) == 0


def test_psnr_of_a_case_solved_by_hand() -> None:
    """An error of 255 in one of twelve values gives 10 log10 12; without that pixel, infinity."""
    image = np.zeros((2, 2, 3), np.uint8)
    other = image.copy()
    other[0, 0, 0] = 255
    assert psnr(image, other) == pytest.approx(10 * np.log10(12))
    elsewhere = np.ones((2, 2), bool)
    elsewhere[0, 0] = False
    assert psnr(image, other, elsewhere) == float("inf")


def test_target_confirms_the_edit_and_source_does_not() -> None:
    """The true result confirms the edit and the rest; the input confirms the rest only."""
    for edit in EDITS:
        after, before = reading_of(edit.target), reading_of(edit.source)
        assert confirms_edit(after, edit)
        assert confirms_rest(after, edit)
        assert not confirms_edit(before, edit)
        assert confirms_rest(before, edit)


def test_missing_object_does_not_confirm_the_rest() -> None:
    """An image without an object that the edit should not change does not confirm the rest."""
    edit = next(e for e in EDITS if e.kind == "color" and len(e.source.objects) == 2)
    (number,) = edit.changed
    item = edit.target.objects[number]
    reading = Reading(edit.target.background, frozenset({(item.color, item.shape)}))
    assert confirms_edit(reading, edit)
    assert not confirms_rest(reading, edit)
