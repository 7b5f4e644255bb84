"""The composite: outside the mask the image stays, at the model's size and the original's."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from pipeline.images.composite import (
    blend,
    composite,
    into_source,
    inward_ramp,
    meets_cut,
    pixel_mask,
)
from pipeline.images.geometry import Placement, place
from tests.reference import composite as reference
from tests.samples import pixels


@pytest.mark.parametrize("feather", [0, 1, 3])
def test_composite_agrees_with_float64(feather: int, tolerance: dict) -> None:
    """Ramp and image equal the transcription, for a hard mask and for a soft one."""
    random = np.random.default_rng(0)
    before, edited = random.integers(0, 256, (2, 12, 15, 3), dtype=np.uint8)
    soft = random.random((12, 15)).astype(np.float32)
    hard = np.kron(soft[:4, :5] > 0.4, np.ones((3, 3))).astype(np.float32)
    for mask in (hard, soft):
        ramp = reference.inward_ramp(mask.astype(np.float64), max(1, feather))
        assert np.abs(inward_ramp(mask, feather) - ramp).max() < tolerance[torch.float32]
        theirs = reference.composite(before.astype(np.float64), edited.astype(np.float64), ramp)
        made = composite(before, edited, mask, feather=feather)
        assert np.abs(made.pixels - theirs).max() <= 0.5 + 255 * tolerance[torch.float32]


def test_the_ramp_rises_inwards_by_hand() -> None:
    """A square of 5 with a feather of 3: a third at its border, two thirds next, 1 inside."""
    mask = np.zeros((9, 9), np.float32)
    mask[2:7, 2:7] = 1
    ramp = inward_ramp(mask, 3)
    assert np.allclose(ramp[4], [0, 0, 1 / 3, 2 / 3, 1, 2 / 3, 1 / 3, 0, 0])
    assert np.array_equal(ramp > 0, mask > 0)
    assert np.array_equal(inward_ramp(mask, 0), mask)


def test_the_frame_is_no_border() -> None:
    """A mask that reaches the image's edge is not faded there."""
    mask = np.zeros((4, 8), np.float32)
    mask[:, 4:] = 1
    ramp = inward_ramp(mask, 2)
    assert np.allclose(ramp, np.tile([0, 0, 0, 0, 0.5, 1, 1, 1], (4, 1)))


@pytest.mark.parametrize("feather", [0.0, 1.0, 4.0, 9.0])
def test_outside_the_mask_the_prepared_image_stays(feather: float) -> None:
    """Where the feathered mask is 0, pixels are equal, exactly; inside they change."""
    generator = np.random.default_rng(0)
    before, edited = generator.integers(0, 256, (2, 32, 32, 3), dtype=np.uint8)
    mask = pixel_mask((generator.random((4, 4)) > 0.6).astype(np.float32), None, (32, 32))
    made = composite(before, edited, mask, feather=feather)
    ramp = inward_ramp(mask, feather)
    assert np.array_equal(made.pixels[ramp == 0], before[ramp == 0])
    assert np.array_equal(made.pixels[ramp == 1], edited[ramp == 1])
    assert (made.pixels[mask > 0] != before[mask > 0]).any()
    assert np.array_equal(made.mask > 0, mask > 0)


def test_cells_cover_whole_pixels() -> None:
    """A cell of the latent grid is a square of pixels, and a supplied mask wins over the grid."""
    cells = np.array([[0, 1], [0.5, 0]], np.float32)
    assert np.array_equal(pixel_mask(cells, None, (4, 4)), np.kron(cells, np.ones((2, 2))))
    supplied = np.zeros((4, 4), np.uint8)
    supplied[1, 2] = 255
    assert np.array_equal(pixel_mask(cells, supplied, (4, 4)), supplied / 255)


def test_blending_is_exact_at_its_ends() -> None:
    """Alpha 0 and 1 give the two images, whatever their values."""
    first, second = np.arange(0, 256), np.arange(255, -1, -1)
    before, edited = (np.repeat(v[:, None, None], 3, 2).astype(np.uint8) for v in (first, second))
    assert np.array_equal(blend(before, edited, np.zeros((256, 1), np.float32)), before)
    assert np.array_equal(blend(before, edited, np.ones((256, 1), np.float32)), edited)


def cropped(width: int, height: int) -> Placement:
    return place((width, height), (8, 8), "crop")


def test_each_side_that_the_crop_cut_counts() -> None:
    """Of a wide original the left and right sides, of a high one top and bottom."""
    for row, column in ((3, 0), (3, -1), (0, 3), (-1, 3)):
        mask = np.zeros((8, 8), np.float32)
        mask[row, column] = 0.4
        assert not meets_cut(mask, cropped(12, 8))
        mask[row, column] = 0.6
        assert meets_cut(mask, cropped(12, 8)) == (row == 3)
        assert meets_cut(mask, cropped(8, 12)) == (column == 3)
        assert not meets_cut(mask, cropped(8, 8))
    assert not meets_cut(np.zeros((8, 8), np.float32), cropped(12, 8))
    assert meets_cut(np.ones((8, 8), np.float32), cropped(9, 8))  # one column, on one side


@pytest.mark.parametrize("side", [32, 48, 100])
def test_no_cell_is_lost_where_the_source_is_small(side: int) -> None:
    """A cell of 8 pixels of 512, wherever it lies, changes an image of 32 pixels, and only it."""
    source = np.zeros((side, side, 3), np.uint8)
    placement = place((side, side), (512, 512), "crop")
    before, edited = np.zeros((512, 512, 3), np.uint8), np.full((512, 512, 3), 255, np.uint8)
    for cell in range(0, 64, 3):
        mask = np.zeros((512, 512), np.float32)
        mask[8 * cell : 8 * cell + 8, 8 * cell : 8 * cell + 8] = 1
        made = composite(before, edited, mask, feather=None)
        small = into_source(source, made, placement, feather=4)
        assert (small.pixels[small.mask > 0] > 0).any()
        assert (small.pixels[small.mask == 0] == 0).all()
        assert np.unique(small.mask).tolist() == [0, 255]
        assert small.area <= (8 * side / 512 + 2) ** 2 / side**2


def test_scaling_back_undoes_the_fit() -> None:
    """A model's image twice as large, cropped: a full mask without feather gives it back."""
    source = np.repeat(np.repeat(pixels(4, 8, 12)[:8, :12], 1, 0), 1, 1)
    centre = source[:, 2:10]
    large = np.repeat(np.repeat(255 - centre, 2, 0), 2, 1)
    prepared_large = np.repeat(np.repeat(centre, 2, 0), 2, 1)
    made = composite(prepared_large, large, np.ones((16, 16), np.float32), feather=None)
    back = into_source(source, made, place((12, 8), (16, 16), "crop"), feather=0)
    assert np.array_equal(back.pixels[:, :2], source[:, :2])
    assert np.abs(back.pixels[:, 2:10].astype(int) - (255 - centre)).max() <= 40
    assert (back.mask[:, 2:10] == 255).all()
    assert back.box == [2, 0, 10, 8]
