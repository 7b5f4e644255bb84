"""The only place where a network's prediction becomes eps, whatever it was trained to predict."""

from __future__ import annotations

import torch
from diffusers import UNet2DConditionModel
from torch import Tensor, nn

from pipeline.diffusion.denoiser import Condition, Denoiser
from pipeline.diffusion.row_levels import RowLevels
from pipeline.diffusion.schedule import Level
from pipeline.models.micro_batch import MicroBatch


class UNetDenoiser:
    """Stable Diffusion's UNet as a ``Denoiser``."""

    def __init__(
        self, unet: UNet2DConditionModel, prediction_type: str, smallest_sigma: float
    ) -> None:
        """
        Args:
            unet: on its device, in the dtype to compute in.
            prediction_type: epsilon, v_prediction or sample.
            smallest_sigma: of timestep 0, the cleanest that the network knows. Level 0 may be
                cleaner still, and an eps from a predicted x0 is divided by sigma.
        """
        self.unet = unet
        self.prediction_type = prediction_type
        self.smallest_sigma = smallest_sigma

    @property
    def network(self) -> nn.Module:
        """The UNet."""
        return self.unet

    def __call__(self, latent: Tensor, level: Level | RowLevels, condition: Condition) -> Tensor:
        predicted = self.unet(
            latent.to(self.unet.dtype),
            level.timestep,
            condition.tokens.to(self.unet.dtype),
            return_dict=False,
        )[0].float()
        if self.prediction_type == "epsilon":
            return predicted
        if self.prediction_type == "v_prediction":
            return eps_from_v(predicted, latent, level)
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


def in_micro_batches(denoiser: Denoiser, micro_batch: MicroBatch) -> Denoiser:
    """The same denoiser, called with at most a micro-batch of rows at a time."""

    def call(latent: Tensor, level: Level, condition: Condition) -> Tensor:
        def some(rows: slice) -> Tensor:
            return denoiser(latent[rows], level, condition[rows])

        return torch.cat(micro_batch.over(len(latent), some))

    return call
