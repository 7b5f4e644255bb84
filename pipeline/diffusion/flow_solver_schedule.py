"""The levels of a flow-matching network whose sampler is DPM-Solver++. float64 throughout."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from pipeline.diffusion.flow_schedule import FlowSchedule, unsupported

UNSUPPORTED = (
    *("use_karras_sigmas", "use_exponential_sigmas", "use_beta_sigmas"),
    *("use_lu_lambdas", "use_dynamic_shifting"),
)
WANTED = {
    "prediction_type": "flow_prediction",
    "use_flow_sigmas": True,
    "final_sigmas_type": "zero",
}


@dataclass(frozen=True)
class FlowSolverSchedule(FlowSchedule):
    """The levels of diffusers' DPMSolverMultistepScheduler with ``use_flow_sigmas``.

    They start one timestep below pure noise, and the network gets whole timesteps, rounded down.
    """

    @classmethod
    def from_solver(cls, config: Mapping[str, Any]) -> FlowSolverSchedule:
        """Reads the scheduler's ``scheduler_config.json``.

        Raises:
            ValueError: the config asks for a grid that is not implemented.
        """
        for name in UNSUPPORTED:
            if config.get(name):
                raise unsupported(name, config[name])
        for name, wanted in WANTED.items():
            if config.get(name) != wanted:
                raise unsupported(name, config.get(name), f"allowed is {wanted!r}")
        total = int(config.get("num_train_timesteps", 1000))
        return cls(float(config.get("flow_shift", 1.0)), total)

    def grid(self, num_steps: int) -> np.ndarray:
        clean = np.linspace(1.0, 1.0 / self.num_timesteps, num_steps + 1)
        return 1.0 - clean[1:]

    def timestep(self, s: float) -> float:
        return float(int(s * self.num_timesteps))
