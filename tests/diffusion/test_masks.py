"""DiffEdit's mask: compared with float64, solved by hand, and properties that always hold."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from pipeline.diffusion.masks import (
    cut_mask,
    mask_from_pixels,
    otsu_threshold,
    relative_difference,
    rescale,
    smooth,
)
from tests.reference import masks as reference

RULES = ["minmax", "mean_ratio", "otsu"]


def spot(generator: torch.Generator, size: int = 16) -> Tensor:
    """A map with a strong square in the middle of a faint background."""
    values = torch.rand(size, size, generator=generator) * 0.05
    values[6:10, 6:10] += 0.4
    return values


def test_difference_agrees_with_float64(generator: torch.Generator, tolerance: dict) -> None:
    """The map over 10 draws and 4 channels equals the reference."""
    source, target = torch.randn(2, 10, 4, 8, 8, generator=generator)
    theirs = reference.relative_difference(source.double().numpy(), target.double().numpy())
    ours = relative_difference(source, target).double().numpy()
    assert np.abs(ours - theirs).max() / theirs.max() < tolerance[torch.float32]


def test_difference_of_a_case_solved_by_hand() -> None:
    """Source 2 everywhere, target 3 in one of two channels of one cell: 0.5 / 2."""
    source = torch.full((3, 2, 2, 2), 2.0)
    target = source.clone()
    target[:, 0, 1, 1] = 3.0
    assert relative_difference(source, target).tolist() == [[0.0, 0.0], [0.0, 0.25]]


def test_difference_does_not_depend_on_the_order_of_noises(generator: torch.Generator) -> None:
    """Permuting the draws does not change the map, up to float32's rounding."""
    source, target = torch.randn(2, 10, 4, 8, 8, generator=generator)
    order = torch.randperm(10, generator=generator)
    torch.testing.assert_close(
        relative_difference(source[order], target[order]), relative_difference(source, target)
    )


@pytest.mark.parametrize(("left", "right"), [((2, 4, 8, 8), (3, 4, 8, 8)), ((0, 4, 8, 8),) * 2])
def test_difference_of_unlike_shapes_is_an_error(left: tuple, right: tuple) -> None:
    """Different shapes, and zero draws, are refused."""
    with pytest.raises(ValueError, match="shapes"):
        relative_difference(torch.zeros(left), torch.zeros(right))


@pytest.mark.parametrize("rule", RULES)
def test_rescaled_map_agrees_with_float64(
    rule: str, generator: torch.Generator, tolerance: dict
) -> None:
    """The map is clamped and rescaled as in the reference, to [0, 1]."""
    values = spot(generator)
    numbers = values.double().numpy()
    if rule == "mean_ratio":
        theirs = reference.mean_ratio(numbers)
    else:
        theirs = reference.minmax(numbers, 99.0)
    ours = rescale(values, rule).double().numpy()
    assert np.abs(ours - theirs).max() < tolerance[torch.float32]
    assert 0.0 <= ours.min() <= ours.max() <= 1.0


@pytest.mark.parametrize("rule", RULES)
def test_every_rule_finds_the_spot(rule: str, generator: torch.Generator) -> None:
    """The mask is exactly the strong square."""
    mask, values = cut_mask(spot(generator), rule=rule)
    expected = torch.zeros(16, 16)
    expected[6:10, 6:10] = 1.0
    assert torch.equal(mask, expected)
    assert values.max() <= 1.0


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("options", [{}, {"smooth_sigma": 1.0}, {"dilate": 2}, {"soft": True}])
def test_zero_difference_gives_an_empty_mask(rule: str, options: dict) -> None:
    """A map of zeros gives an empty mask even without a floor (diffusers gives all ones)."""
    mask, values = cut_mask(torch.zeros(8, 8), rule=rule, floor=0.0, **options)
    assert not mask.any()
    assert torch.equal(values, torch.zeros(8, 8))


@pytest.mark.parametrize("rule", RULES)
def test_floor_removes_faint_differences(rule: str, generator: torch.Generator) -> None:
    """A map a thousand times weaker gives an empty mask, and the whole spot without a floor."""
    faint = spot(generator) / 1000.0
    assert not cut_mask(faint, rule=rule)[0].any()
    assert cut_mask(faint, rule=rule, floor=0.0)[0].sum() == 16


def test_mask_does_not_depend_on_the_maps_scale(generator: torch.Generator) -> None:
    """Each map is scaled by its own statistics: a factor of 2 changes nothing (no floor)."""
    values = spot(generator)
    for rule in RULES:
        once, twice = (cut_mask(v, rule=rule, floor=0.0)[0] for v in (values, values * 2.0))
        assert torch.equal(once, twice)


def test_extreme_values_do_not_hide_the_rest(generator: torch.Generator) -> None:
    """The percentile clamps one extreme cell of 256; without the clamp it is the whole mask."""
    values = spot(generator)
    values[0, 0] = 100.0
    assert cut_mask(values)[0].sum() == 17
    assert cut_mask(values, clamp_percentile=100.0)[0].sum() == 1


def test_otsu_agrees_with_exhaustive_search(generator: torch.Generator) -> None:
    """The histogram's threshold separates the same cells as trying every threshold in float64."""
    for _ in range(5):
        faint = torch.rand(192, generator=generator) * 0.3
        strong = 0.6 + torch.rand(64, generator=generator) * 0.4
        values = torch.cat([faint, strong]).view(16, 16)
        cut = reference.otsu(values.double().numpy())
        assert torch.equal(values > otsu_threshold(values), values > cut)


def test_dilation_grows_by_cells(generator: torch.Generator) -> None:
    """A square with side 4 dilated by 1 becomes a square with side 6."""
    mask, _ = cut_mask(spot(generator), dilate=1)
    assert mask.sum() == 36
    assert mask[5:11, 5:11].all()


def test_soft_mask_keeps_the_maps_values(generator: torch.Generator) -> None:
    """A soft mask holds the rescaled map's values inside, and 0 outside."""
    values = spot(generator)
    hard, rescaled = cut_mask(values)
    soft, _ = cut_mask(values, soft=True)
    assert torch.equal(soft, hard * rescaled)
    assert 0.5 < soft[soft > 0].min() < 1.0


def test_smoothing_keeps_a_constant_and_the_sum(generator: torch.Generator) -> None:
    """A Gaussian keeps a flat map and the sum of a point, and sigma 0 does nothing."""
    torch.testing.assert_close(smooth(torch.full((8, 8), 0.3), 1.5), torch.full((8, 8), 0.3))
    point = torch.zeros(17, 17)
    point[8, 8] = 1.0
    spread = smooth(point, 1.0)
    assert spread.sum().item() == pytest.approx(1.0, abs=1e-5)
    assert spread[8, 8].item() == pytest.approx(1.0 / (2.0 * np.pi), rel=0.02)
    assert torch.equal(spread, spread.T)
    assert smooth(point, 0.0) is point


def test_supplied_mask_edits_cells_covered_by_a_quarter() -> None:
    """A cell is edited if at least a quarter of it is covered; a soft mask holds the share."""
    pixels = torch.zeros(8, 8, dtype=torch.uint8)
    pixels[:4, :4] = 255  # all of cell (0, 0)
    pixels[0, 4:8] = 255  # a quarter of cell (0, 1)
    pixels[4, 0:3] = 255  # less of cell (1, 0)
    assert mask_from_pixels(pixels, (2, 2)).tolist() == [[1.0, 1.0], [0.0, 0.0]]
    assert mask_from_pixels(pixels, (2, 2), soft=True).tolist() == [[1.0, 0.25], [0.0, 0.0]]
