"""The noise schedule: alpha, sigma and timestep of each level. float64 throughout.

A level says how noisy a latent is: x = alpha * x0 + sigma * noise. The integrator works in
u = x / alpha and tau = sigma / alpha, where one equation holds for every model family.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

# Lower bound of the cumulative alphas, so that tau stays finite at zero terminal SNR.
# The value is that of diffusers' EulerDiscreteScheduler.
SMALLEST_ALPHA_CUMPROD = 2.0**-24


@dataclass(frozen=True)
class Level:
    """One noise level.

    Attributes:
        index: 0 is clean, ascending with the noise; -1 for a level that is not on the sampling
            grid.
        timestep: as passed to the network.
        alpha: the clean latent's factor, in (0, 1].
        sigma: the noise's standard deviation, in [0, 1].
    """

    index: int
    timestep: float
    alpha: float
    sigma: float

    @property
    def tau(self) -> float:
        """The integration variable, sigma / alpha, ascending with the noise."""
        return self.sigma / self.alpha


class NoiseSchedule(Protocol):
    """The interface of a schedule, the same for every model family."""

    @property
    def num_timesteps(self) -> int:
        """Number of training timesteps; also the largest number of sampling steps."""
        ...

    def levels(self, num_steps: int, ratio: float = 1.0) -> list[Level]:
        """The levels from clean up to the share ``ratio`` of the schedule, ascending."""
        ...

    def level_at(self, share: float) -> Level:
        """The level at a share of the schedule."""
        ...

    def for_grid(self, height: int, width: int) -> NoiseSchedule:
        """The schedule for a latent of this size in cells; most models have one for all."""
        ...


@dataclass(frozen=True)
class Schedule:
    """A variance-preserving schedule: alpha^2 + sigma^2 = 1, with alpha^2 = alphas_cumprod[t].

    Flow matching has its own class, ``FlowSchedule``; both implement ``NoiseSchedule``.

    Attributes:
        alphas_cumprod: (T,) float64, descending.
        final_alpha_cumprod: of level 0, where encoding starts and decoding ends.
        spacing: how the sampling timesteps are spread over 0..T-1: leading, trailing or linspace.
        steps_offset: added to the timesteps if spacing is leading.
    """

    alphas_cumprod: np.ndarray
    final_alpha_cumprod: float
    spacing: str = "leading"
    steps_offset: int = 0

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> Schedule:
        """Reads a diffusers ``scheduler_config.json``, with DDIMScheduler's defaults.

        Raises:
            ValueError: the beta schedule or the spacing is unknown.
        """
        alphas_cumprod = np.cumprod(1.0 - _betas(config))
        if config.get("rescale_betas_zero_snr", False):
            alphas_cumprod = _zero_terminal_snr(alphas_cumprod)
        alphas_cumprod = np.maximum(alphas_cumprod, SMALLEST_ALPHA_CUMPROD)
        spacing = config.get("timestep_spacing", "leading")
        if spacing not in ("leading", "trailing", "linspace"):
            raise ValueError(
                f"timestep_spacing={spacing!r} in the scheduler's config: "
                "allowed are leading, trailing, linspace"
            )
        to_one = config.get("set_alpha_to_one", True)
        return cls(
            alphas_cumprod=alphas_cumprod,
            final_alpha_cumprod=1.0 if to_one else float(alphas_cumprod[0]),
            spacing=spacing,
            steps_offset=int(config.get("steps_offset", 0)),
        )

    @property
    def num_timesteps(self) -> int:
        return len(self.alphas_cumprod)

    def levels(self, num_steps: int, ratio: float = 1.0) -> list[Level]:
        """The levels from clean up to the share ``ratio`` of the schedule, ascending.

        Args:
            num_steps: of the whole schedule.
            ratio: in (0, 1]; DiffEdit's r, SDEdit's t0.

        Returns:
            K + 1 levels, K = ``num_levels(num_steps, ratio)``. Level 0 is the clean latent
            (timestep 0); the others are the last K timesteps that a sampler with ``num_steps``
            steps visits.

        Raises:
            ValueError: there are more steps than timesteps.
        """
        timesteps = self.timesteps(num_steps)[: num_levels(num_steps, ratio)]
        clean = _level(0, 0, self.final_alpha_cumprod)
        noisy = [
            _level(index, int(timestep), float(self.alphas_cumprod[timestep]))
            for index, timestep in enumerate(timesteps, start=1)
        ]
        return [clean, *noisy]

    def level_at(self, share: float) -> Level:
        """The level at a share of the schedule, e.g. 0.5 for timestep T / 2 (of 0..T-1)."""
        timestep = min(math.floor(share * self.num_timesteps + 0.5), self.num_timesteps - 1)
        return _level(-1, timestep, float(self.alphas_cumprod[timestep]))

    def for_grid(self, height: int, width: int) -> Schedule:
        """The same for every size."""
        return self

    def timesteps(self, num_steps: int) -> np.ndarray:
        """(num_steps,) int64, ascending: the timesteps that a sampler visits, reversed."""
        total = self.num_timesteps
        if not 1 <= num_steps <= total:
            raise ValueError(f"method.steps={num_steps}: the model allows 1 to {total}")
        if self.spacing == "leading":
            timesteps = np.arange(num_steps) * (total // num_steps) + self.steps_offset
        elif self.spacing == "trailing":
            # cut: for 61 of the 1000 step counts, rounding makes arange return one value too many,
            # just above 0
            timesteps = np.round(np.arange(total, 0, -total / num_steps)[:num_steps])[::-1] - 1
        else:
            timesteps = np.round(np.linspace(0, total - 1, num_steps))
        return np.clip(timesteps, 0, total - 1).astype(np.int64)


def num_levels(num_steps: int, ratio: float) -> int:
    """K = num_steps * ratio, rounded half up, at least 1."""
    return max(1, math.floor(num_steps * ratio + 0.5))


def _level(index: int, timestep: int, alpha_cumprod: float) -> Level:
    return Level(index, timestep, math.sqrt(alpha_cumprod), math.sqrt(1.0 - alpha_cumprod))


def _betas(config: Mapping[str, Any]) -> np.ndarray:
    """(T,) float64, for the schedule names of diffusers."""
    if config.get("trained_betas") is not None:
        return np.asarray(config["trained_betas"], dtype=np.float64)
    total = int(config.get("num_train_timesteps", 1000))
    start, end = float(config.get("beta_start", 1e-4)), float(config.get("beta_end", 0.02))
    name = config.get("beta_schedule", "linear")
    if name == "linear":
        return np.linspace(start, end, total)
    if name == "scaled_linear":  # Stable Diffusion's
        return np.asarray(np.linspace(math.sqrt(start), math.sqrt(end), total) ** 2)
    if name == "squaredcos_cap_v2":  # Nichol and Dhariwal, arXiv:2102.09672
        bars = np.cos((np.arange(total + 1) / total + 0.008) / 1.008 * np.pi / 2) ** 2
        return np.asarray(np.minimum(1.0 - bars[1:] / bars[:-1], 0.999))
    raise ValueError(
        f"beta_schedule={name!r} in the scheduler's config: "
        "allowed are linear, scaled_linear, squaredcos_cap_v2"
    )


def _zero_terminal_snr(alphas_cumprod: np.ndarray) -> np.ndarray:
    """Shifts and scales so that the last level is pure noise. Lin et al., arXiv:2305.08891."""
    alphas = np.sqrt(alphas_cumprod)
    first, last = alphas[0], alphas[-1]
    return np.asarray(((alphas - last) * first / (first - last)) ** 2)
