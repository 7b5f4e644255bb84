"""The noise schedule: its values, sampling grids and levels."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler

from pipeline.diffusion.schedule import Schedule, num_levels
from tests.reference.ddim import stable_diffusion_alphas_cumprod

STABLE_DIFFUSION = {
    "num_train_timesteps": 1000,
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "set_alpha_to_one": False,
    "steps_offset": 1,
}


@pytest.fixture
def schedule() -> Schedule:
    """Stable Diffusion's schedule."""
    return Schedule.from_config(STABLE_DIFFUSION)


def test_alphas_follow_the_formula(schedule: Schedule, tolerance: dict) -> None:
    """Every cumulative alpha of Stable Diffusion equals the float64 loop over the formula."""
    reference = stable_diffusion_alphas_cumprod()
    np.testing.assert_allclose(schedule.alphas_cumprod, reference, rtol=tolerance[torch.float64])


@pytest.mark.parametrize("beta_schedule", ["linear", "scaled_linear", "squaredcos_cap_v2"])
@pytest.mark.parametrize("zero_snr", [False, True])
def test_alphas_equal_those_of_diffusers(
    beta_schedule: str, zero_snr: bool, tolerance: dict
) -> None:
    """Each named schedule gives diffusers' float32 values, up to float32's rounding.

    The last timestep is left out: with the cosine schedule and zero terminal SNR its value is so
    close to 0 that float32 has no correct digit.
    """
    config = STABLE_DIFFUSION | {
        "beta_schedule": beta_schedule,
        "rescale_betas_zero_snr": zero_snr,
    }
    theirs = DDIMScheduler.from_config(config).alphas_cumprod.double().numpy()
    ours = Schedule.from_config(config).alphas_cumprod
    np.testing.assert_allclose(
        np.sqrt(ours[:-1]), np.sqrt(theirs[:-1]), rtol=10 * tolerance[torch.float32], atol=1e-6
    )


@pytest.mark.parametrize("spacing", ["leading", "trailing", "linspace"])
@pytest.mark.parametrize("num_steps", [1, 7, 50, 100])
def test_timesteps_equal_those_of_diffusers(spacing: str, num_steps: int) -> None:
    """diffusers' sampler visits the same timesteps in reverse order."""
    config = STABLE_DIFFUSION | {"timestep_spacing": spacing}
    theirs = DDIMScheduler.from_config(config)
    theirs.set_timesteps(num_steps)
    ours = Schedule.from_config(config).timesteps(num_steps)
    assert ours[::-1].tolist() == theirs.timesteps.tolist()


@pytest.mark.parametrize("spacing", ["leading", "trailing", "linspace"])
def test_every_step_count_gives_that_many_timesteps(spacing: str) -> None:
    """Rounding adds no timestep (trailing spacing, 61 of the step counts); the noisiest is 999."""
    schedule = Schedule.from_config(STABLE_DIFFUSION | {"timestep_spacing": spacing})
    for num_steps in range(1, 1001):
        timesteps = schedule.timesteps(num_steps)
        assert len(timesteps) == num_steps
        assert (np.diff(timesteps) > 0).all() or num_steps == 1000
        assert spacing != "trailing" or schedule.levels(num_steps)[-1].timestep == 999


def test_levels_at_the_papers_settings(schedule: Schedule) -> None:
    """50 steps at r = 0.8 give level 0 and the 40 lowest timesteps of the network."""
    levels = schedule.levels(50, 0.8)
    assert [level.index for level in levels] == list(range(41))
    assert [level.timestep for level in levels] == [0, *range(1, 800, 20)]
    assert levels[0].alpha ** 2 == pytest.approx(schedule.alphas_cumprod[0], rel=1e-12)
    assert levels[40].alpha ** 2 == pytest.approx(schedule.alphas_cumprod[781], rel=1e-12)


def test_set_alpha_to_one_makes_the_clean_level_exact() -> None:
    """set_alpha_to_one makes level 0 exactly clean; it is the default, as in diffusers."""
    config = {key: value for key, value in STABLE_DIFFUSION.items() if key != "set_alpha_to_one"}
    clean = Schedule.from_config(config).levels(50, 0.8)[0]
    assert (clean.alpha, clean.sigma, clean.tau) == (1.0, 0.0, 0.0)


@pytest.mark.parametrize(
    ("num_steps", "ratio", "expected"),
    [(50, 0.8, 40), (50, 1.0, 50), (25, 0.5, 13), (50, 0.001, 1), (1, 0.1, 1), (10, 0.34, 3)],
)
def test_ratio_is_rounded_half_up(num_steps: int, ratio: float, expected: int) -> None:
    """The number of noisy levels is rounded to the nearest, and at least 1."""
    assert num_levels(num_steps, ratio) == expected


@pytest.mark.parametrize("spacing", ["leading", "trailing", "linspace"])
@pytest.mark.parametrize("num_steps", [3, 50, 1000])
def test_levels_ascend_in_noise(spacing: str, num_steps: int) -> None:
    """tau never decreases from level to level, and alpha^2 + sigma^2 is 1."""
    levels = Schedule.from_config(STABLE_DIFFUSION | {"timestep_spacing": spacing}).levels(
        num_steps
    )
    taus = [level.tau for level in levels]
    assert taus == sorted(taus)
    assert all(abs(level.alpha**2 + level.sigma**2 - 1.0) < 1e-12 for level in levels)


def test_half_of_the_schedule_is_timestep_500(schedule: Schedule) -> None:
    """A noise level of 50 % is the middle timestep (481 with diffusers' 50 steps)."""
    level = schedule.level_at(0.5)
    assert (level.index, level.timestep) == (-1, 500)
    assert level.alpha**2 == pytest.approx(schedule.alphas_cumprod[500], rel=1e-12)
    assert schedule.level_at(1.0).timestep == 999


def test_pure_noise_stays_finite() -> None:
    """With zero terminal SNR and trailing spacing the last level has a finite tau."""
    config = STABLE_DIFFUSION | {"rescale_betas_zero_snr": True, "timestep_spacing": "trailing"}
    last = Schedule.from_config(config).levels(50)[-1]
    assert last.timestep == 999
    assert 1e3 < last.tau < 1e4


@pytest.mark.parametrize(("key", "value"), [("beta_schedule", "x"), ("timestep_spacing", "x")])
def test_unknown_schedules_are_errors(key: str, value: str) -> None:
    """The error for an unknown schedule names the key, the value and what is allowed."""
    with pytest.raises(ValueError, match=f"{key}='x'.*allowed are .*linear|leading"):
        Schedule.from_config(STABLE_DIFFUSION | {key: value})


def test_more_steps_than_timesteps_are_an_error(schedule: Schedule) -> None:
    """1001 steps of 1000 timesteps are refused; the error names the range."""
    with pytest.raises(ValueError, match=r"method.steps=1001.*1 to 1000"):
        schedule.levels(1001)
