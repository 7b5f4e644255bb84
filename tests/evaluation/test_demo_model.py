"""The figures of the model card: masks, backgrounds, their upper bound, and the model itself."""

from __future__ import annotations

import numpy as np
import pytest

from pipeline.config.mask import Mask
from pipeline.config.method import Method
from pipeline.demo.editor import load_demo_model, masked_part, outcomes, perfect_edits
from pipeline.demo.edits import FAINT, mask_on_grid, sample_edit, true_mask
from pipeline.demo.measures import mask_iou, psnr
from pipeline.demo.readback import confirms_edit, confirms_rest, load_reader, read_images
from pipeline.demo.world import paint
from pipeline.evaluation.demo_model import OF_EDITS, ModelJudge, card_text
from pipeline.evaluation.demo_world import SEED
from pipeline.evaluation.measure import Measured, Seen, summary
from pipeline.models.loading import LatentDiffusion


@pytest.fixture(scope="module")
def model() -> LatentDiffusion:
    return load_demo_model()


def test_perfect_edit_is_confirmed_and_preserves_distant_pixels(
    model: LatentDiffusion,
) -> None:
    """The reader confirms it, and pixels outside the true cells' rows and columns are the input."""
    edits = [sample_edit(3, "heldout", number, kinds=("color",)) for number in range(6)]
    images = perfect_edits(model, edits)
    for edit, image, reading in zip(edits, images, read_images(load_reader(), images), strict=True):
        assert confirms_edit(reading, edit)
        assert confirms_rest(reading, edit)
        cells = mask_on_grid(true_mask(edit))
        far = ~(cells.any(0, keepdims=True) | cells.any(1, keepdims=True))
        assert psnr(image, paint(edit.source), np.kron(far, np.ones((8, 8), bool))) > 30


def test_mask_figures_ignore_dilation_and_background_figures_do_not(
    model: LatentDiffusion,
) -> None:
    """Mask figures are those of the inferred masks; background figures those of given images."""
    edits = [sample_edit(3, "heldout", number) for number in range(4)]

    def method_with(dilate: int) -> Method:
        mask = Mask(num_noises=2, threshold=0.3, dilate=dilate)
        return Method(steps=10, encode_ratio=0.3, guidance_scale=1, mask=mask)

    def measured(dilate: int) -> list[dict[str, float]]:
        method = method_with(dilate)
        done = outcomes(model, masked_part(model, edits, method, seed=0), method, seed=0)
        seen = [
            Seen(
                {"world_seed": 3, "number": number},
                edit.edit_text,
                paint(edit.source),
                outcome.image,
                true_mask(edit),
                not outcome.edited,
                edit.kind,
            )
            for number, (edit, outcome) in enumerate(zip(edits, done, strict=True))
        ]
        figures = ModelJudge(model, method, num_scenes=2).edits(seen)
        for edit, item, row in zip(edits, seen, figures, strict=True):
            kept = ~true_mask(edit, differs=FAINT)
            is_local = edit.kind != "background"
            assert row.get("background_db") == (
                psnr(item.after, item.before, kept) if is_local else None
            )
        return figures

    plain, dilated = measured(0), measured(1)
    for name in ("cells_iou", "cells_recall", "cells_precision"):
        assert [row[name] for row in plain] == [row[name] for row in dilated]
    backgrounds = [[row["background_db"] for row in rows[:3]] for rows in (plain, dilated)]
    assert backgrounds[0] != backgrounds[1]
    found = masked_part(model, edits, method_with(0), seed=SEED)
    for edit, row, figures in zip(edits, found.edits, plain, strict=True):
        assert row.mask is not None
        assert figures["cells_iou"] == mask_iou(row.mask > 0, mask_on_grid(true_mask(edit)))


def test_unchanged_edit_has_no_background_figures(model: LatentDiffusion) -> None:
    """Its image is the input, whose background would have an infinite PSNR."""
    edit = sample_edit(3, "heldout", 0)
    image = paint(edit.source)
    facts = {"world_seed": 3, "number": 0}
    seen = [Seen(facts, edit.edit_text, image, image, true_mask(edit), True, edit.kind)]
    method = Method(steps=4, mask=Mask(num_noises=1))
    (figures,) = ModelJudge(model, method, num_scenes=2).edits(seen)
    assert figures.keys() == {"cells_iou", "cells_recall", "cells_precision"}


def test_card_has_a_row_for_each_kind_and_one_for_the_model() -> None:
    """The card has means by kind and over all edits, a dash for missing figures, and counts."""
    measured = [
        Measured("0", "color", "edited", {}, {"confirmed_e2": 100.0, "background_db": 36.0}),
        Measured("1", "several", "edited", {}, {"confirmed_e2": 0.0}),
        Measured("2", "several", "unchanged", {}, {"confirmed_e2": 50.0}),
    ]
    found = summary(measured)
    found["figures"] |= {"vae_db": 35.0, "reader_e2": 100.0, "generated_one_e2": 99.0}
    lines = card_text(found).splitlines()
    assert lines[0].startswith("| edits | edits confirmed, % |")
    background = 2 + OF_EDITS.index("background_db")
    rows = [[cell.strip() for cell in line.split("|")] for line in lines[2:5]]
    assert [row[1] for row in rows] == ["all", "color", "several"]
    assert [row[2] for row in rows] == ["50.00", "100.00", "25.00"]
    assert [row[background] for row in rows] == ["36.00", "36.00", "–"]
    assert "2 edited, 1 unchanged" in lines[6]
    assert lines[-1] == "| alone | 35.00 | 100.00 | 99.00 | – |"
