"""The schedule of flow matching: x = (1 - s) * x0 + s * noise. float64 throughout.

With alpha = 1 - s and sigma = s, a velocity v = noise - x0 gives eps = x + (1 - s) * v. An Euler
step in tau = s / (1 - s) at constant eps equals an Euler step in s at constant v: both move along
the line through the predicted x0 and eps. So code that works on ``Level`` works here unchanged.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from pipeline.diffusion.schedule import Level, num_levels

# Lower bound of alpha, because pure noise (s = 1) has no finite tau. A larger bound would shift the
# start of decoding by alpha * v. eps is float64 near it (``models/network.py``), since float32
# would hold v with an error of 2^-24 / alpha there. Against diffusers' Euler loop from s = 1 the
# error is 5e-5 relative, whatever the steps and the guidance scale.
SMALLEST_ALPHA = 2.0**-15
# Options that change the sampling grid and are not implemented. Models of the supported families do
# not set them.
UNSUPPORTED = (
    *("invert_sigmas", "use_karras_sigmas"),
    *("use_exponential_sigmas", "use_beta_sigmas"),
)


@dataclass(frozen=True)
class DynamicShift:
    """A shift that grows with the image: its logarithm is linear in the number of tokens.

    Attributes:
        few: number of tokens at which the logarithm is ``low``.
        many: number of tokens at which it is ``high``.
        low: see ``few``.
        high: see ``many``.
        linear: it is the shift itself that is linear, not its logarithm.
        cells_per_token: latent cells a side of what the transformer makes a token.
    """

    few: float
    many: float
    low: float
    high: float
    linear: bool
    cells_per_token: int

    @classmethod
    def from_config(cls, config: Mapping[str, Any], cells_per_token: int) -> DynamicShift:
        """Reads a ``scheduler_config.json`` with dynamic shifting, with diffusers' defaults.

        Raises:
            ValueError: the numbers of tokens do not ascend.
        """
        few, many = config.get("base_image_seq_len", 256), config.get("max_image_seq_len", 4096)
        if few >= many:
            raise ValueError(
                f"max_image_seq_len={many} in the scheduler's config; allowed is more than "
                f"base_image_seq_len={few}"
            )
        return cls(
            few=few,
            many=many,
            low=config.get("base_shift", 0.5),
            high=config.get("max_shift", 1.15),
            linear=config.get("time_shift_type") == "linear",
            cells_per_token=cells_per_token,
        )

    def at(self, height: int, width: int) -> float:
        """The shift for a latent of this size in cells."""
        num_tokens = (height // self.cells_per_token) * (width // self.cells_per_token)
        mu = self.low + (self.high - self.low) * (num_tokens - self.few) / (self.many - self.few)
        return float(mu) if self.linear else math.exp(mu)


@dataclass(frozen=True)
class FlowSchedule:
    """The levels of a flow-matching network, as in FlowMatchEulerDiscreteScheduler.

    Attributes:
        shift: how far the grid is shifted towards the noisy end; 1 keeps it even.
        num_timesteps: the timestep that the network gets for s = 1.
        lowest: the last value of the sampler's even grid, before the shift, in (0, 1]; None: one
            step above clean, 1 / steps.
        dynamic: gives the shift for an image's size; None: it is the same for all.
        terminal: s of the sampler's last value: after the shift, the grid is stretched from 1 to
            it; None: it is not stretched.
    """

    shift: float = 1.0
    num_timesteps: int = 1000
    lowest: float | None = 1e-3
    dynamic: DynamicShift | None = None
    terminal: float | None = None

    @classmethod
    def from_config(
        cls,
        config: Mapping[str, Any],
        grid: tuple[int, int],
        cells_per_token: int = 1,
        *,
        ends_a_step_above: bool = False,
    ) -> FlowSchedule:
        """Reads the ``scheduler_config.json`` of a FlowMatchEulerDiscreteScheduler.

        Args:
            config: as stored.
            grid: (h, w) of the latent in cells; a scheduler with dynamic shifting derives its
                shift from it.
            cells_per_token: a side: what the transformer makes a token.
            ends_a_step_above: whether the family's pipeline hands the scheduler a grid from 1 to
                1 / steps; else the scheduler makes its own.

        Raises:
            ValueError: the config asks for a grid that is not implemented.
        """
        for name in UNSUPPORTED:
            if config.get(name):
                raise unsupported(name, config[name])
        total = int(config.get("num_train_timesteps", 1000))
        shift = float(config.get("shift", 1.0))
        lowest = _shifted(1.0 / total, shift)  # diffusers shifts the end of the grid twice
        dynamic = None
        if config.get("use_dynamic_shifting", False):
            dynamic = DynamicShift.from_config(config, cells_per_token)
            shift, lowest = dynamic.at(*grid), 1.0 / total
        terminal = config.get("shift_terminal") or None
        if terminal is not None and not (isinstance(terminal, float) and 0.0 < terminal < 1.0):
            raise ValueError(
                f"shift_terminal={terminal!r} in the scheduler's config; allowed is a number above "
                "0 and below 1"
            )
        return cls(shift, total, None if ends_a_step_above else lowest, dynamic, terminal)

    def for_grid(self, height: int, width: int) -> FlowSchedule:
        """The schedule for a latent of this size in cells."""
        if self.dynamic is None:
            return self
        return replace(self, shift=self.dynamic.at(height, width))

    def levels(self, num_steps: int, ratio: float = 1.0) -> list[Level]:
        """The levels from clean up to the share ``ratio`` of the sampler's steps, ascending.

        Args:
            num_steps: of the whole schedule.
            ratio: in (0, 1]; DiffEdit's r, SDEdit's t0.

        Returns:
            K + 1 levels, K = ``num_levels(num_steps, ratio)``. Level 0 is the clean latent (s = 0,
            timestep 0); the others are the last K that a sampler with ``num_steps`` steps visits.
            At ratio 1 the noisiest level is pure noise, except for the share ``SMALLEST_ALPHA`` of
            the image.

        Raises:
            ValueError: there are more steps than timesteps.
        """
        if not 1 <= num_steps <= self.num_timesteps:
            raise ValueError(
                f"method.steps={num_steps}: the model allows 1 to {self.num_timesteps}"
            )
        grid = self.grid(num_steps)
        noisy, lowest = grid[: num_levels(num_steps, ratio)], float(grid[0])
        clean = Level(0, 0.0, 1.0, 0.0)
        levels = (self._level(index, share, lowest) for index, share in enumerate(noisy, start=1))
        return [clean, *levels]

    def grid(self, num_steps: int) -> np.ndarray:
        """(num_steps,) the sampler's even grid in (0, 1], ascending, before the shift."""
        lowest = 1.0 / num_steps if self.lowest is None else self.lowest
        return np.linspace(1.0, lowest, num_steps)[::-1]

    def timestep(self, s: float) -> float:
        """What the network gets for s."""
        return s * self.num_timesteps

    def level_at(self, share: float) -> Level:
        """The level at a share of the schedule, shifted like the grid of a sampler's many steps."""
        return self._level(-1, max(share, 1.0 / self.num_timesteps))

    def _level(self, index: int, share: float, lowest: float = 0.0) -> Level:
        s = float(_shifted(share, self.shift))
        if self.terminal is not None and lowest < 1.0:  # one step alone starts and ends at 1
            s = 1.0 - (1.0 - s) * (1.0 - self.terminal) / (1.0 - _shifted(lowest, self.shift))
        alpha = max(1.0 - s, SMALLEST_ALPHA)
        return Level(index, self.timestep(s), alpha, 1.0 - alpha)


def unsupported(name: str, value: Any, allowed: str = "not supported") -> ValueError:
    """The error of a scheduler's option that is not implemented."""
    return ValueError(f"{name}={value!r} in the scheduler's config: {allowed}")


def _shifted(share: float, shift: float) -> float:
    """Source: Esser et al., arXiv:2403.03206, the resolution-dependent shift of timesteps."""
    return shift * share / (1.0 + (shift - 1.0) * share)
