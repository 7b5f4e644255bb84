"""The config's solver in both stages: accuracy, evaluations, and comparison with diffusers."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler, DPMSolverMultistepScheduler

from pipeline.config.config import Config
from pipeline.diffusion.denoiser import Condition
from pipeline.diffusion.latents import from_numpy
from pipeline.diffusion.schedule import Level
from pipeline.models.loading import LatentDiffusion
from tests.parts import (
    counted,
    decoded_latents,
    encoded_part,
    make_config,
    make_prepared,
    required,
)

SOLVERS = ["ddim", "dpmpp_2m"]


def round_trip(model: LatentDiffusion, config: Config) -> float:
    """RMSE of encoding and decoding with the empty text, in standard deviations of the latent."""
    part = encoded_part(model, config, make_prepared(0, ""))
    clean = required(part.samples[0].latent)
    latent = decoded_latents(model, part, config)[0].numpy()
    return float(np.sqrt(np.mean((latent - clean) ** 2)) / clean.std())


def plain(**method: object) -> Config:
    """A configuration without mask and guidance."""
    return make_config(**{"guidance_scale": 1.0, "mask": {"source": "full"}} | method)


def test_round_trips_of_the_others_are_close(tiny_model: LatentDiffusion) -> None:
    """DPM-Solver++ has a smaller error than DDIM, so both stages use the configured solver."""
    ddim, dpmpp = (round_trip(tiny_model, plain(steps=50, solver=s)) for s in SOLVERS)
    assert 1e-3 < dpmpp < ddim < 0.2


@pytest.mark.parametrize("solver", SOLVERS)
def test_rows_tell_what_each_solver_costs(tiny_model: LatentDiffusion, solver: str) -> None:
    """One evaluation a step of encoding, and two a step of guided decoding."""
    config = make_config(solver=solver, mask={"source": "full"})
    with counted(tiny_model) as rows:
        part = encoded_part(tiny_model, config, make_prepared(0, "a cat"))
        decoded_latents(tiny_model, part, config)
    (edit,) = part.edits
    assert (edit.num_evals_encode, edit.num_evals_decode) == (4, 8)
    assert sum(rows) == 4 + 8


@pytest.mark.parametrize("solver", SOLVERS)
def test_background_ends_as_the_clean_latent(tiny_model: LatentDiffusion, solver: str) -> None:
    """With every solver the latent outside the mask equals the clean one, bit for bit."""
    config = make_config(solver=solver)
    part = encoded_part(tiny_model, config, make_prepared(0, "a cat"))
    clean, mask = required(part.samples[0].latent), required(part.edits[0].mask)
    latent = decoded_latents(tiny_model, part, config)[0].numpy()
    assert 0.0 < mask.mean() < 1.0
    np.testing.assert_array_equal(latent[:, mask == 0], clean[:, mask == 0])
    assert np.abs(latent[:, mask == 1] - clean[:, mask == 1]).max() > 0.1


@pytest.mark.parametrize("solver", SOLVERS)
def test_background_has_the_noise_level_of_the_edit(
    tiny_model: LatentDiffusion, solver: str
) -> None:
    """In every network call of decoding, the background is the encoded latent of that level."""
    config = make_config(steps=10, guidance_scale=1.0, solver=solver)
    part = encoded_part(tiny_model, config, make_prepared(0, "a cat"))
    trajectory = required(part.samples[0].trajectory)
    keep = required(part.edits[0].mask) == 0
    called: list[int] = []

    def checked(latent: torch.Tensor, level: Level, condition: Condition) -> torch.Tensor:
        called.append(level.index)
        encoded = trajectory[level.index]
        np.testing.assert_array_equal(latent[0].numpy()[:, keep], encoded[:, keep])
        return tiny_model.denoiser(latent, level, condition)

    decoded_latents(replace(tiny_model, denoiser=checked), part, config)
    assert called == list(range(8, 0, -1))
    assert 0 < keep.sum() < keep.size


@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize(("num_images", "index"), [(n, k) for n in (1, 3, 8) for k in range(n)])
def test_edit_ignores_batch_neighbors_at_every_index(
    tiny_model: LatentDiffusion, solver: str, num_images: int, index: int, tolerance: dict
) -> None:
    """In parts of 1, 3 and 8 images, at each index: the same mask, the latent up to rounding."""
    config = make_config(steps=3, solver=solver)
    alone = encoded_part(tiny_model, config, make_prepared(0, "a cat"))
    crowd = [make_prepared(10 * index + n, "a blue square") for n in range(1, num_images)]
    crowd.insert(index, make_prepared(0, "a cat"))
    among = encoded_part(tiny_model, config, *crowd)
    np.testing.assert_array_equal(required(among.edits[index].mask), required(alone.edits[0].mask))
    expected = decoded_latents(tiny_model, alone, config)[0]
    found = decoded_latents(tiny_model, among, config)[index]
    error = float((found - expected).abs().max() / expected.abs().max())
    assert error < tolerance[torch.float32]


@pytest.mark.parametrize("guidance_scale", [1.0, 7.5])
@pytest.mark.parametrize("solver", SOLVERS)
def test_plain_decoding_equals_diffusers(
    tiny_model: LatentDiffusion, solver: str, guidance_scale: float
) -> None:
    """50 steps with a full mask equal a loop over diffusers' scheduler to 1e-4.

    DPMSolverMultistepScheduler gets DDIM's timesteps (its own leading spacing divides by one step
    more) and the final sigma of timestep 0, as in the model's DDIM config.
    """
    config = plain(
        name="sdedit",
        steps=50,
        strength=1.0,
        solver=solver,
        mask={},
        guidance_scale=guidance_scale,
        negative_text="photo",
    )
    part = encoded_part(tiny_model, config, make_prepared(0, "a red dog"))
    latent = from_numpy(part.samples[0].trajectory)[-1:]
    scheduler = DDIMScheduler.from_pretrained(tiny_model.info.folder / "scheduler")
    scheduler.set_timesteps(50)
    if solver == "dpmpp_2m":
        timesteps = scheduler.timesteps.tolist()
        scheduler = DPMSolverMultistepScheduler.from_config(
            scheduler.config,
            algorithm_type="dpmsolver++",
            solver_order=2,
            solver_type="midpoint",
            final_sigmas_type="sigma_min",
        )
        scheduler.set_timesteps(timesteps=timesteps)
    unet = tiny_model.unbatched.network
    text, negative = (tiny_model.text.encode([t]).tokens for t in ("a red dog", "photo"))
    with torch.inference_mode():
        for timestep in scheduler.timesteps:
            eps = unet(latent, timestep, text).sample
            if guidance_scale != 1.0:
                eps_negative = unet(latent, timestep, negative).sample
                eps = eps_negative + guidance_scale * (eps - eps_negative)
            latent = scheduler.step(eps, timestep, latent).prev_sample
    ours = decoded_latents(tiny_model, part, config)
    assert float((ours - latent).abs().max() / latent.abs().max()) < 1e-4
