"""Noise depends on its seed only, and latents are unchanged by conversion to numpy and back."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
import torch

from pipeline.diffusion.latents import blend, from_numpy, stacked, to_numpy
from pipeline.diffusion.noise import add_noise, draw_noise
from pipeline.diffusion.schedule import Level
from tests.reference.ddim import noised


def test_noise_depends_on_its_seed_only() -> None:
    """Equal seeds give equal noise whatever else is drawn; the global generator is not touched."""
    before = torch.random.get_rng_state()
    first = draw_noise(7, (4, 8, 8))
    assert torch.equal(torch.random.get_rng_state(), before)
    torch.randn(100)
    assert torch.equal(draw_noise(7, (4, 8, 8)), first)
    assert not torch.equal(draw_noise(8, (4, 8, 8)), first)


def test_noise_is_standard_normal() -> None:
    """Noise is float32 with mean 0 and variance 1, and its draws are uncorrelated."""
    noise = draw_noise(2**62, (10, 4, 32, 32))
    assert noise.dtype == torch.float32
    assert abs(float(noise.mean())) < 0.02
    assert abs(float(noise.var()) - 1.0) < 0.02
    correlation = np.corrcoef(noise.flatten(1).numpy()) - np.eye(10)
    assert np.abs(correlation).max() < 0.1


def test_adding_noise_agrees_with_the_paper(generator: torch.Generator, tolerance: dict) -> None:
    """alpha x0 + sigma noise equals SDEdit's perturbation in float64."""
    latent, noise = torch.randn(2, 4, 8, 8, generator=generator)
    level = Level(3, 400, 0.3**0.5, 0.7**0.5)
    theirs = noised(latent.double().numpy(), noise.double().numpy(), 0.3)
    ours = add_noise(latent, noise, level).double().numpy()
    assert np.abs(ours - theirs).max() / np.abs(theirs).max() < tolerance[torch.float32]


def test_blend_takes_each_side_exactly(generator: torch.Generator) -> None:
    """Where the mask is 0 the result is exactly the background, where it is 1 exactly the edit."""
    edited, background = torch.randn(2, 3, 4, 8, 8, generator=generator)
    mask = (torch.rand(3, 1, 8, 8, generator=generator) > 0.5).float()
    blended = blend(edited, background, mask)
    assert torch.equal(blended, torch.where(mask.bool(), edited, background))
    assert torch.allclose(
        blend(edited, background, mask * 0.5)[mask.expand_as(edited) == 1],
        ((edited + background) / 2)[mask.expand_as(edited) == 1],
    )


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_numpy_keeps_every_bit(dtype: torch.dtype, generator: torch.Generator) -> None:
    """Conversion to numpy and back keeps values and dtype; bfloat16 is stored as uint16."""
    latent = torch.randn(5, 4, 8, 8, generator=generator).to(dtype).transpose(2, 3)
    array = to_numpy(latent)
    assert array.dtype == (np.uint16 if dtype == torch.bfloat16 else to_numpy(latent).dtype)
    back = from_numpy(array)
    assert back.dtype == dtype
    assert torch.equal(back, latent)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("writable", [True, False])
def test_stacked_arrays_keep_every_bit(
    dtype: torch.dtype, writable: bool, generator: torch.Generator
) -> None:
    """Also those of Ray's shared memory, which torch would warn of and might write to."""
    latents = torch.randn(3, 4, 8, 8, generator=generator).to(dtype)
    arrays = [to_numpy(latent) for latent in latents]
    for array in arrays if not writable else []:
        array.flags.writeable = False
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert torch.equal(stacked(arrays), latents)
        single = from_numpy(arrays[0])
    assert torch.equal(single, latents[0])
    assert np.shares_memory(arrays[0], to_numpy(single)) == writable
