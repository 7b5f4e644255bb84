"""The schedule of flow matching: x = (1 - s) * x0 + s * noise. float64 throughout.

With alpha = 1 - s and sigma = s a velocity v = noise - x0 gives eps = x + (1 - s) * v, and an Euler
step in tau = s / (1 - s) at a constant eps is an Euler step in s at a constant v: both move along
the line through the predicted x0 and eps. So whatever works on ``Level`` works here unchanged.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from pipeline.diffusion.schedule import Level, num_levels

# Pure noise, s = 1, has no tau, so alpha stays above this. A larger value would shift the start of
# decoding by alpha * v; a smaller one leaves v in a float32 eps with an error of 2^-24 / alpha.
# Measured against diffusers' Euler loop from s = 1, the two balance here: 5e-5 relative in 50
# steps, 8e-5 in 28.
SMALLEST_ALPHA = 2.0**-15
# What bends the grid of sampling in ways that are not implemented; none is set in a model of the
# families that are.
UNSUPPORTED = (
    *("invert_sigmas", "shift_terminal", "use_karras_sigmas"),
    *("use_exponential_sigmas", "use_beta_sigmas"),
)


@dataclass(frozen=True)
class FlowSchedule:
    """Levels for a flow-matching network, as FlowMatchEulerDiscreteScheduler lays them.

    Attributes:
        shift: how far the grid leans to the noisy end; 1 leaves it even.
        num_timesteps: what s = 1 is called when the network is asked.
        lowest: where the even grid of a sampler ends, before the shift, in (0, 1].
    """

    shift: float = 1.0
    num_timesteps: int = 1000
    lowest: float = 1e-3

    @classmethod
    def from_config(cls, config: Mapping[str, Any], num_tokens: int) -> FlowSchedule:
        """From the ``scheduler_config.json`` of a FlowMatchEulerDiscreteScheduler.

        Args:
            config: as stored.
            num_tokens: of the image, as the transformer counts; a scheduler with dynamic
                shifting derives its shift from it.

        Raises:
            ValueError: the config asks for a grid that is not implemented.
        """
        for name in UNSUPPORTED:
            if config.get(name):
                raise ValueError(
                    f"{name}={config[name]!r} in the scheduler's config: not supported"
                )
        total = int(config.get("num_train_timesteps", 1000))
        shift = float(config.get("shift", 1.0))
        lowest = _shifted(1.0 / total, shift)  # their sampler shifts a grid that ends in a shift
        if config.get("use_dynamic_shifting", False):
            shift, lowest = _dynamic_shift(config, num_tokens), 1.0 / total
        return cls(shift, total, lowest)

    def levels(self, num_steps: int, ratio: float = 1.0) -> list[Level]:
        """The levels from clean to the share ``ratio`` of the sampler's steps, ascending.

        Args:
            num_steps: of the whole schedule.
            ratio: in (0, 1]; DiffEdit's r, SDEdit's t0.

        Returns:
            K + 1 levels, K = ``num_levels(num_steps, ratio)``. Level 0 is the clean latent (s = 0,
            timestep 0); the others are the last K that a sampler of ``num_steps`` visits. At ratio
            1 the noisiest is pure noise but for a trace of the image, ``SMALLEST_ALPHA``.

        Raises:
            ValueError: more steps than timesteps.
        """
        if not 1 <= num_steps <= self.num_timesteps:
            raise ValueError(
                f"method.steps={num_steps}: the model allows 1 to {self.num_timesteps}"
            )
        grid = np.linspace(1.0, self.lowest, num_steps)[::-1]
        noisy = grid[: num_levels(num_steps, ratio)]
        clean = Level(0, 0.0, 1.0, 0.0)
        return [clean, *(self._level(index, share) for index, share in enumerate(noisy, start=1))]

    def level_at(self, share: float) -> Level:
        """The level at a share of the schedule: s = 0.5, shifted as the sampler's grid is."""
        return self._level(-1, max(share, 1.0 / self.num_timesteps))

    def _level(self, index: int, share: float) -> Level:
        s = float(_shifted(share, self.shift))
        alpha = max(1.0 - s, SMALLEST_ALPHA)
        return Level(index, s * self.num_timesteps, alpha, 1.0 - alpha)


def _shifted(share: float, shift: float) -> float:
    """Source: Esser et al., arXiv:2403.03206, the resolution-dependent shift of timesteps."""
    return shift * share / (1.0 + (shift - 1.0) * share)


def _dynamic_shift(config: Mapping[str, Any], num_tokens: int) -> float:
    """The shift for an image of so many tokens, on a line through two points of the config."""
    few, many = config.get("base_image_seq_len", 256), config.get("max_image_seq_len", 4096)
    low, high = config.get("base_shift", 0.5), config.get("max_shift", 1.15)
    mu = low + (high - low) * (num_tokens - few) / (many - few)
    return float(mu) if config.get("time_shift_type") == "linear" else math.exp(mu)
