"""The bound that the model's figures are held against."""

from __future__ import annotations

from typing import Any

import numpy as np

from pipeline.config.method import Mask, Method
from pipeline.demo.editor import Outcome, load_demo_model, masked_part, outcomes
from pipeline.demo.edits import Edit, mask_on_grid, sample_edit, true_mask
from pipeline.demo.evaluation import measure_edits, perfect_edits
from pipeline.demo.measures import psnr
from pipeline.demo.readback import confirms_edit, confirms_rest, load_reader, read_images
from pipeline.demo.world import paint


def test_perfect_edit_shows_the_wanted_scene_and_keeps_what_is_far_from_it() -> None:
    """The reader confirms it, and outside the true cells' rows and columns it is the input's."""
    model, reader = load_demo_model(), load_reader()
    edits = [sample_edit(3, "heldout", number, kinds=("color",)) for number in range(6)]
    images = perfect_edits(model, edits)
    for edit, image, reading in zip(edits, images, read_images(reader, images), strict=True):
        assert confirms_edit(reading, edit)
        assert confirms_rest(reading, edit)
        cells = mask_on_grid(true_mask(edit))
        far = ~(cells.any(0)[None, :] | cells.any(1)[:, None])
        assert psnr(image, paint(edit.source), np.kron(far, np.ones((8, 8), bool))) > 30


def test_figures_of_masks_are_of_what_was_found_and_images_of_what_was_edited() -> None:
    """Masks that grow leave the first as they are; the images are what the product makes."""
    model, reader = load_demo_model(), load_reader()
    edits = [sample_edit(3, "heldout", number) for number in range(4)]

    def measured(dilate: int) -> list[dict[str, Any]]:
        mask = Mask(num_noises=2, threshold=0.3, dilate=dilate)
        method = Method(steps=10, encode_ratio=0.3, guidance_scale=1, mask=mask)
        done = outcomes(model, masked_part(model, edits, method, seed=0), method, seed=0)

        def compare(_: list[Edit], seen: list[Outcome]) -> None:
            for one, other in zip(seen, done, strict=True):
                assert np.array_equal(one.mask, other.mask)
                assert np.array_equal(one.image, other.image)

        return measure_edits(model, reader, method, count=4, seed=3, after_batch=compare)

    plain, grown = measured(0), measured(1)
    for name in ("iou", "recall", "precision"):
        assert [row[name] for row in plain] == [row[name] for row in grown]
    assert [row["psnr"] for row in plain] != [row["psnr"] for row in grown]
