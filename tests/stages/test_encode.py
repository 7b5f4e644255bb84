"""The encode stage: trajectories from inversion or from noise."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from pipeline.config.model import Model
from pipeline.config.stages import Stage
from pipeline.diffusion.denoiser import Condition
from pipeline.diffusion.latents import from_numpy
from pipeline.diffusion.noise import draw_noise
from pipeline.diffusion.schedule import Level
from pipeline.models.loading import LatentDiffusion, load_model
from pipeline.records.part import Sample, Status
from pipeline.records.seeds import noise_seed
from tests.parts import make_config, make_part, make_prepared, required, run_stages
from tests.reference import ddim as reference


def encoded(model: LatentDiffusion, *samples: Sample, **method: Any) -> list[Sample]:
    """The samples after mask and encode, with full masks by default."""
    config = make_config(**{"mask": {"source": "full"}} | method)
    return run_stages(model, make_part(*samples), config, ["mask", "encode"]).samples


def test_encoding_is_unconditional_ddim(tiny_model: LatentDiffusion) -> None:
    """The trajectory equals the float64 reference with the empty text."""
    (sample,) = encoded(tiny_model, make_prepared(0, "a cat"), steps=20)
    levels = tiny_model.schedule.levels(20, 0.8)
    empty = tiny_model.text.encode([""])

    def network(x: np.ndarray, k: int) -> np.ndarray:
        latent = torch.from_numpy(x)[None].float()
        return tiny_model.denoiser(latent, levels[k], empty)[0].double().numpy()

    a = np.array([level.alpha**2 for level in levels])
    with torch.inference_mode():
        latent_float64 = required(sample.latent).astype(np.float64)
        theirs = np.stack(reference.encode(network, latent_float64, a))
    trajectory = required(sample.trajectory)
    assert trajectory.shape == (17, 4, 8, 8)
    assert np.abs(trajectory - theirs).max() / np.abs(theirs).max() < 1e-5
    np.testing.assert_array_equal(trajectory[0], required(sample.latent))


def test_noise_encoding_uses_one_noise_at_every_level(tiny_model: LatentDiffusion) -> None:
    """encode: noise is SDEdit's perturbation with seeded noise, without network evaluations."""
    (sample,) = encoded(tiny_model, make_prepared(0), encode="noise")
    noise = draw_noise(noise_seed(0, "shard", "k0", "encode"), (4, 8, 8)).double().numpy()
    clean = required(sample.latent).astype(np.float64)
    levels = tiny_model.schedule.levels(5, 0.8)
    for level, latent in zip(levels, required(sample.trajectory), strict=True):
        theirs = reference.noised(clean, noise, level.alpha**2)
        np.testing.assert_allclose(latent, theirs, atol=1e-5)
    assert sample.edits[0].num_evals_encode == 0


def test_images_of_one_part_may_differ_in_ratio(tiny_model: LatentDiffusion) -> None:
    """Each sample's ratio gives its number of levels and does not change other samples."""
    (alone,) = encoded(tiny_model, make_prepared(1))
    own = make_prepared(0)
    own.settings = {"encode_ratio": 0.4}
    short, long = encoded(tiny_model, own, make_prepared(1))
    assert [len(required(short.trajectory)), len(required(long.trajectory))] == [3, 5]
    np.testing.assert_allclose(required(long.trajectory), required(alone.trajectory), atol=1e-5)
    assert [p.edits[0].num_evals_encode for p in (short, long)] == [2, 4]


@pytest.mark.parametrize("index", [0, 1, 2])
@pytest.mark.parametrize("batch", [1, 3, 8])
def test_trajectory_ignores_batch_neighbors(
    tiny_model: LatentDiffusion, index: int, batch: int, tolerance: dict
) -> None:
    """Among different neighbors, at any index, a trajectory is the same up to rounding."""
    (alone,) = encoded(tiny_model, make_prepared(0))
    crowd = [make_prepared(10 * index + n) for n in (1, 2)]
    crowd.insert(index, make_prepared(0))
    among = encoded(tiny_model.with_micro_batch(batch), *crowd)[index]
    ours, theirs = required(among.trajectory), required(alone.trajectory)
    assert np.abs(ours - theirs).max() / np.abs(theirs).max() < tolerance[torch.float32]


def test_trajectory_has_the_models_dtype(tiny_model_folder: Path) -> None:
    """A bfloat16 model's trajectory is stored as bfloat16, its clean latent in full precision."""
    model = load_model(Model(path=str(tiny_model_folder), dtype="bfloat16"), "cpu", Stage())
    (sample,) = encoded(model, make_prepared(0))
    assert from_numpy(sample.trajectory).dtype == torch.bfloat16
    assert required(sample.latent).dtype == np.float32


def test_images_without_pending_edits_are_not_encoded(tiny_model: LatentDiffusion) -> None:
    """A sample with an unchanged edit is not encoded; its neighbor counts its own evaluations."""
    config = make_config()
    part = make_part(make_prepared(0, "a dog"), make_prepared(1, "a dog", "a cat"))
    run_stages(tiny_model, part, config, ["mask", "encode"])
    unchanged, edited = part.samples
    assert unchanged.trajectory is None
    assert [edit.num_evals_encode for edit in edited.edits] == [0, 4]


def test_encoded_latents_that_are_not_finite_fail_their_sample(
    tiny_model: LatentDiffusion,
) -> None:
    """The neighbor in the same network call does not fail."""

    def denoiser(latent: torch.Tensor, level: Level, condition: Condition) -> torch.Tensor:
        eps = tiny_model.denoiser(latent, level, condition)
        eps[0] = float("inf")
        return eps

    part = run_stages(tiny_model, make_part(*map(make_prepared, range(2))), make_config(), ["mask"])
    run_stages(replace(tiny_model, denoiser=denoiser), part, make_config(), ["encode"])
    broken, kept = (sample.edits[0] for sample in part.samples)
    assert (broken.status, broken.stage, broken.error) == (Status.FAILED, "encode", "NonFinite")
    assert kept.pending
