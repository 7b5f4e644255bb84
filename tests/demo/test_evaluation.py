"""The bound that the model's figures are held against."""

from __future__ import annotations

import numpy as np

from pipeline.demo.editor import load_demo_model
from pipeline.demo.edits import mask_on_grid, sample_edit, true_mask
from pipeline.demo.evaluation import perfect_edits
from pipeline.demo.measures import psnr
from pipeline.demo.readback import confirms_edit, confirms_rest, load_reader, read_pictures
from pipeline.demo.world import paint


def test_perfect_edit_shows_the_wanted_scene_and_keeps_what_is_far_from_it() -> None:
    """The reader confirms it, and outside the true cells' rows and columns it is the input's."""
    model, reader = load_demo_model(), load_reader()
    edits = [sample_edit(3, "heldout", number, kinds=("color",)) for number in range(6)]
    pictures = perfect_edits(model, edits)
    for edit, picture, reading in zip(
        edits, pictures, read_pictures(reader, pictures), strict=True
    ):
        assert confirms_edit(reading, edit)
        assert confirms_rest(reading, edit)
        cells = mask_on_grid(true_mask(edit))
        far = ~(cells.any(0)[None, :] | cells.any(1)[:, None])
        assert psnr(picture, paint(edit.source), np.kron(far, np.ones((8, 8), bool))) > 30
