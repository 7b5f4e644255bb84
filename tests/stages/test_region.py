"""Decoding in a box around the mask: its geometry, grouping by shape, and the background."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pipeline.config.method import Decode
from pipeline.diffusion.latents import from_numpy
from pipeline.models.loading import LatentDiffusion
from pipeline.models.suitability import check_suits
from pipeline.records.part import Part
from pipeline.stages.region import Box, Region, box_around, decoded_shape, region_for
from tests.parts import (
    decoded_latents,
    make_config,
    make_part,
    make_prepared,
    required,
    run_stages,
)

BOX = {"region": "box", "context": 1, "multiple": 2}


def mask_of(rows: slice, columns: slice, size: int = 8) -> np.ndarray:
    mask = np.zeros((size, size), np.float32)
    mask[rows, columns] = 1.0
    return mask


def masked_part(model: LatentDiffusion, *masks: np.ndarray) -> Part:
    """An encoded part with one edit per image, which has one of these masks."""
    samples = [make_prepared(number) for number in range(len(masks))]
    part = run_stages(model, make_part(*samples), make_config(), ["mask", "encode"])
    for edit, mask in zip(part.edits, masks, strict=True):
        edit.mask, edit.status = mask, None
    return part


@contextmanager
def network_shapes(model: LatentDiffusion) -> Iterator[list[tuple[int, ...]]]:
    """Records the number of rows and the grid of every network call."""
    shapes: list[tuple[int, ...]] = []
    hook = model.unbatched.network.register_forward_pre_hook(
        lambda module, args: shapes.append((len(args[0]), *args[0].shape[-2:]))
    )
    try:
        yield shapes
    finally:
        hook.remove()


def test_box_of_a_case_solved_by_hand() -> None:
    """2 x 3 cells with a context of 1 give a side of 5, rounded up to 6, centered."""
    mask = mask_of(slice(3, 5), slice(4, 7), 16)
    assert box_around(mask, context=1, multiple=2) == Box(1, 2, 6, 6)
    assert box_around(mask, context=0, multiple=1) == Box(2, 4, 3, 3)


def test_box_stays_inside_the_grid() -> None:
    """In a corner the box is shifted, so that it has more context on the other side."""
    mask = mask_of(slice(0, 2), slice(14, 16), 16)
    assert box_around(mask, context=2, multiple=4) == Box(0, 8, 8, 8)
    assert box_around(mask, context=9, multiple=4) == Box(0, 0, 16, 16)


@given(
    cells=st.lists(st.tuples(st.integers(0, 11), st.integers(0, 11)), min_size=1, max_size=6),
    context=st.integers(0, 4),
    multiple=st.sampled_from([1, 2, 4, 8]),
)
def test_box_contains_mask_and_context(
    cells: list[tuple[int, int]], context: int, multiple: int
) -> None:
    """Every cell within the context of the mask, inside the grid, is in the box."""
    mask = np.zeros((12, 12), np.float32)
    for row, column in cells:
        mask[row, column] = 1.0
    box = box_around(mask, context=context, multiple=multiple)
    inside = np.zeros_like(mask)
    inside[box.top : box.top + box.height, box.left : box.left + box.width] = 1.0
    assert inside.sum() == box.height * box.width
    assert box.height == box.width
    assert box.height % multiple == 0 or box.height == 12
    for row, column in cells:
        near_rows = slice(max(row - context, 0), row + context + 1)
        near_columns = slice(max(column - context, 0), column + context + 1)
        assert inside[near_rows, near_columns].all()


def test_cropping_and_pasting_are_inverse(generator: torch.Generator) -> None:
    """Each row's crop is pasted back to its own box, and nothing else changes."""
    whole = torch.randn(2, 4, 8, 8, generator=generator)
    region = Region((Box(0, 1, 4, 4), Box(4, 4, 4, 4)))
    cut = region.of(whole)
    assert torch.equal(cut[1], whole[1, :, 4:, 4:])
    assert torch.equal(region.into(whole, cut), whole)
    changed = region.into(whole, cut + 1.0)
    assert torch.equal(changed[0, :, 4:], whole[0, :, 4:])
    assert torch.equal(changed[0, :, :4, 1:5], whole[0, :, :4, 1:5] + 1.0)


def test_whole_grid_is_decoded_by_default_and_for_large_boxes() -> None:
    """With region full, or a box as large as the grid, nothing is cropped."""
    small, large = mask_of(slice(2, 4), slice(2, 4)), mask_of(slice(0, 8), slice(3, 5))
    assert decoded_shape(small, Decode()) == (8, 8)
    assert region_for([small], Decode()) == Region()
    assert decoded_shape(small, Decode.model_validate(BOX)) == (4, 4)
    assert region_for([large], Decode.model_validate(BOX)) == Region()


def test_box_as_large_as_the_grid_gives_the_same_bytes(tiny_model: LatentDiffusion) -> None:
    """If the context covers the whole grid, box and full give equal images."""
    part = masked_part(tiny_model, mask_of(slice(2, 5), slice(1, 4)))
    full = run_stages(tiny_model, copy.deepcopy(part), make_config(), ["decode"])
    config = make_config(decode=BOX | {"context": 8})
    box = run_stages(tiny_model, copy.deepcopy(part), config, ["decode"])
    assert np.array_equal(required(full.edits[0].image), required(box.edits[0].image))


def test_network_gets_only_the_box(tiny_model: LatentDiffusion) -> None:
    """Edits whose boxes have one shape share a call; another shape has its own call."""
    small, other, wide = (slice(2, 4), slice(2, 4)), (slice(5, 7), slice(0, 2)), slice(1, 7)
    masks = [mask_of(*small), mask_of(wide, slice(3, 5)), mask_of(*other)]
    part = masked_part(tiny_model, *masks)
    with network_shapes(tiny_model) as shapes:
        run_stages(tiny_model, part, make_config(decode=BOX), ["decode"])
    assert set(shapes) == {(4, 4, 4), (2, 8, 8)}
    assert all(edit.image is not None for edit in part.edits)


def test_outside_the_box_the_latent_is_the_clean_one(tiny_model: LatentDiffusion) -> None:
    """Outside the mask, in the box and beyond it, the latent is unchanged; inside it is not."""
    mask = mask_of(slice(2, 4), slice(5, 7))
    config = make_config(decode=BOX)
    part = masked_part(tiny_model, mask)
    clean = from_numpy(part.samples[0].latent)
    latent = decoded_latents(tiny_model, part, config)[0]
    keep = torch.from_numpy(mask == 0)
    assert torch.equal(latent[:, keep], clean[:, keep])
    assert not torch.equal(latent[:, ~keep], clean[:, ~keep])


@pytest.mark.parametrize("solver", ["ddim", "dpmpp_2m"])
def test_edit_ignores_batch_neighbors(tiny_model: LatentDiffusion, solver: str) -> None:
    """Alone or among edits with other boxes, the latent is the same up to rounding."""
    mask = mask_of(slice(2, 4), slice(5, 7))
    config = make_config(decode=BOX, solver=solver)
    alone = decoded_latents(tiny_model, masked_part(tiny_model, mask), config)[0]
    masks = [mask, mask_of(slice(0, 2), slice(0, 2)), mask_of(slice(0, 8), slice(0, 8))]
    among = decoded_latents(tiny_model, masked_part(tiny_model, *masks), config)[0]
    torch.testing.assert_close(among, alone, rtol=1e-4, atol=1e-4)


def test_sdedit_repeats_in_a_box(tiny_model: LatentDiffusion) -> None:
    """With a supplied mask and a second round of SDEdit, the noise is cropped to the box too."""
    sample = make_prepared(0)
    sample.supplied_mask = np.zeros((32, 32), np.uint8)
    sample.supplied_mask[8:16, 8:16] = 255
    config = make_config(name="sdedit", repeats=2, decode=BOX, ddim_eta=0.5)
    with network_shapes(tiny_model) as shapes:
        part = run_stages(tiny_model, make_part(sample), config)
    assert {shape[1:] for shape in shapes} == {(4, 4)}
    assert part.edits[0].image is not None


def test_unsupported_combinations_are_refused(tiny_model: LatentDiffusion) -> None:
    """The error names key, value and what is allowed; the defaults suit every family."""
    plain, box = make_config(), make_config(decode=BOX)
    check_suits(tiny_model.info, box)
    for family in ("stable-diffusion-xl", "stable-diffusion-3"):
        other = replace(tiny_model.info, family=family)
        check_suits(other, plain)
        with pytest.raises(ValueError, match=r"region='box': not supported for .*region: full"):
            check_suits(other, box)
    check_suits(tiny_model.info, make_config(name="imagic"))
    with pytest.raises(ValueError, match=r"decode.region='box': imagic allows 'full'"):
        make_config(name="imagic", decode=BOX)
