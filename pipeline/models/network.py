"""The only place where a network's prediction is converted to eps."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from pipeline.diffusion.denoiser import Condition, Denoiser
from pipeline.diffusion.row_levels import RowLevels
from pipeline.diffusion.schedule import Level
from pipeline.diffusion.transfer import upload
from pipeline.models.family import Family
from pipeline.models.micro_batch import MicroBatch

# Of alpha: float32 keeps the velocity in eps to 2^-24 / alpha.
FLOAT64_BELOW = 2.0**-6


class NetworkDenoiser:
    """A network as a ``Denoiser``: its family asks it, and its prediction becomes eps."""

    def __init__(
        self,
        family: Family,
        network: Any,
        prediction_type: str,
        smallest_sigma: float = 0.0,
        latent_scale: int = 8,
    ) -> None:
        """
        Args:
            family: the network's.
            network: on its device, in the dtype to compute in.
            prediction_type: epsilon, v_prediction, sample or flow.
            smallest_sigma: sigma at timestep 0, the cleanest level that the network was trained
                on. It bounds the division by sigma when eps is computed from x0, because level 0
                may be cleaner still.
            latent_scale: side of one latent cell in pixels; SDXL takes the image's size as input.
        """
        self.family = family
        self._network = network
        self.prediction_type = prediction_type
        self.smallest_sigma = smallest_sigma
        self.latent_scale = latent_scale

    @property
    def network(self) -> Any:
        """The UNet or transformer."""
        return self._network

    def __call__(self, latent: Tensor, level: Level | RowLevels, condition: Condition) -> Tensor:
        sample, timestep, seen = self.inputs(latent, level, condition)
        predicted = self.family.ask(self.network, sample, timestep, seen, self.latent_scale)
        return self.eps_from(predicted, latent, level)

    def inputs(
        self, latent: Tensor, level: Level | RowLevels, condition: Condition
    ) -> tuple[Tensor, Tensor, Condition]:
        """Latent and condition in the network's dtype, and the timestep between them."""
        dtype = self.network.dtype
        # a tensor, because torch.compile would compile anew for each Python number; written on the
        # device, because the host would wait in every call until a number had been copied there
        timestep = level.timestep
        if not isinstance(timestep, Tensor):
            timestep = torch.full((), timestep, device=latent.device)
        return latent.to(dtype), timestep, condition.to(dtype)

    def eps_from(self, predicted: Tensor, latent: Tensor, level: Level | RowLevels) -> Tensor:
        """(N, C, h, w) eps, converted from the network's prediction: float32, or float64 near the
        pure noise of a flow."""
        # a copy, because CUDA graphs write the next output to the same memory
        predicted = predicted.to(torch.float32, copy=True)
        if self.prediction_type == "epsilon":
            return predicted
        if self.prediction_type == "v_prediction":
            return eps_from_v(predicted, latent, level)
        if self.prediction_type == "flow":
            return eps_from_velocity(predicted, latent, level)
        return eps_from_x0(predicted, latent, level, self.smallest_sigma)


def eps_from_v(v: Tensor, latent: Tensor, level: Level | RowLevels) -> Tensor:
    """v = alpha * eps - sigma * x0. Source: Salimans and Ho, arXiv:2202.00512, appendix D."""
    return level.alpha * v + level.sigma * latent


def eps_from_x0(
    x0: Tensor, latent: Tensor, level: Level | RowLevels, smallest_sigma: float = 0.0
) -> Tensor:
    """latent = alpha * x0 + sigma * eps, solved for eps."""
    if isinstance(level, RowLevels):
        return (latent - level.alpha * x0) / level.sigma.clamp(min=smallest_sigma)
    return (latent - level.alpha * x0) / max(level.sigma, smallest_sigma)


def eps_from_velocity(velocity: Tensor, latent: Tensor, level: Level | RowLevels) -> Tensor:
    """velocity = eps - x0 and latent = (1 - s) * x0 + s * eps, solved for eps; alpha = 1 - s.

    In float64 near pure noise, where float32 would round most of the velocity away: guidance
    multiplies what is lost, and a step from there multiplies it by tau.

    Source: Esser et al., arXiv:2403.03206, rectified flow.
    """
    if isinstance(level, Level) and level.alpha < FLOAT64_BELOW:
        return latent.double() + level.alpha * velocity.double()
    return latent + level.alpha * velocity


def in_micro_batches(denoiser: Denoiser, micro_batch: MicroBatch) -> Denoiser:
    """The same denoiser, called with at most one micro-batch of rows at a time."""

    def call(latent: Tensor, level: Level, condition: Condition) -> Tensor:
        def call_rows(rows: slice) -> Tensor:
            num_rows = rows.stop - rows.start
            padded = micro_batch.padded(num_rows)
            if padded == num_rows:
                return denoiser(latent[rows], level, condition[rows])
            filled = torch.arange(rows.start, rows.start + padded)
            filled = filled.clamp(max=rows.stop - 1)  # padding repeats the last row
            latents = latent[upload(filled, latent.device)]
            return denoiser(latents, level, condition[filled])[:num_rows]

        return torch.cat(micro_batch.map(call_rows, len(latent)))

    return call
