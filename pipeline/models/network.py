"""The only place where a network's prediction is converted to eps."""

from __future__ import annotations

import torch
from diffusers import SD3Transformer2DModel, UNet2DConditionModel
from torch import Tensor, nn

from pipeline.diffusion.denoiser import Condition, Denoiser
from pipeline.diffusion.row_levels import RowLevels
from pipeline.diffusion.schedule import Level
from pipeline.models.micro_batch import MicroBatch


class UNetDenoiser:
    """The UNet of Stable Diffusion or SDXL as a ``Denoiser``."""

    def __init__(
        self,
        unet: UNet2DConditionModel,
        prediction_type: str,
        smallest_sigma: float,
        latent_scale: int = 8,
    ) -> None:
        """
        Args:
            unet: on its device, in the dtype to compute in.
            prediction_type: epsilon, v_prediction or sample.
            smallest_sigma: sigma at timestep 0, the cleanest level that the network was trained
                on. It bounds the division by sigma when eps is computed from x0, because level 0
                may be cleaner still.
            latent_scale: side of one latent cell in pixels; SDXL takes the image's size as input.
        """
        self.unet = unet
        self.prediction_type = prediction_type
        self.smallest_sigma = smallest_sigma
        self.latent_scale = latent_scale

    @property
    def network(self) -> nn.Module:
        """The UNet."""
        network: nn.Module = self.unet
        return network

    def __call__(self, latent: Tensor, level: Level | RowLevels, condition: Condition) -> Tensor:
        sample, timestep, tokens, added = self.inputs(latent, level, condition)
        predicted = self.unet(sample, timestep, tokens, added_cond_kwargs=added, return_dict=False)[
            0
        ]
        return self.eps_from(predicted, latent, level)

    def inputs(
        self, latent: Tensor, level: Level | RowLevels, condition: Condition
    ) -> tuple[Tensor, Tensor, Tensor, dict[str, Tensor] | None]:
        """The UNet's inputs: sample, timestep, tokens, added conditions."""
        return (
            latent.to(self.unet.dtype),
            # a tensor, because torch.compile would compile anew for each Python number
            torch.as_tensor(level.timestep, device=latent.device),
            condition.tokens.to(self.unet.dtype),
            self._added(latent, condition),
        )

    def eps_from(self, predicted: Tensor, latent: Tensor, level: Level | RowLevels) -> Tensor:
        """(N, C, h, w) float32: eps, converted from the UNet's prediction."""
        # a copy, because CUDA graphs write the next output to the same memory
        predicted = predicted.to(torch.float32, copy=True)
        if self.prediction_type == "epsilon":
            return predicted
        if self.prediction_type == "v_prediction":
            return eps_from_v(predicted, latent, level)
        return eps_from_x0(predicted, latent, level, self.smallest_sigma)

    def _added(self, latent: Tensor, condition: Condition) -> dict[str, Tensor] | None:
        """SDXL's added conditions: the pooled text embedding, and six numbers about the size.

        The numbers are original size, crop corner and target size. The original size is set to
        that of the prepared image, uncropped: a smaller one would ask for the blur of an enlarged
        image, which the prepared image may not have.

        Source: SDXL, arXiv:2307.01952, section 2.2, micro-conditioning.
        """
        if condition.pooled is None:
            return None
        height, width = (side * self.latent_scale for side in latent.shape[-2:])
        sizes = [height, width, 0, 0, height, width]
        return {
            "text_embeds": condition.pooled.to(self.unet.dtype),
            "time_ids": latent.new_tensor(sizes).expand(len(latent), -1),
        }


class FlowDenoiser:
    """Stable Diffusion 3's transformer, trained by flow matching, as a ``Denoiser``."""

    def __init__(self, transformer: SD3Transformer2DModel) -> None:
        """
        Args:
            transformer: on its device, in the dtype to compute in.
        """
        self.transformer = transformer

    @property
    def network(self) -> nn.Module:
        """The transformer."""
        network: nn.Module = self.transformer
        return network

    def __call__(self, latent: Tensor, level: Level | RowLevels, condition: Condition) -> Tensor:
        assert condition.pooled is not None, "this family's text encoders return a pooled embedding"
        dtype = self.transformer.dtype
        timestep = torch.as_tensor(level.timestep, dtype=torch.float32, device=latent.device)
        velocity = self.transformer(
            hidden_states=latent.to(dtype),
            timestep=timestep.expand(len(latent)),
            encoder_hidden_states=condition.tokens.to(dtype),
            pooled_projections=condition.pooled.to(dtype),
            return_dict=False,
        )[0]
        velocity = velocity.to(torch.float32, copy=True)  # see UNetDenoiser
        return eps_from_velocity(velocity, latent, level)


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

    Source: Esser et al., arXiv:2403.03206, rectified flow.
    """
    return latent + level.alpha * velocity


def in_micro_batches(denoiser: Denoiser, micro_batch: MicroBatch) -> Denoiser:
    """The same denoiser, called with at most one micro-batch of rows at a time."""

    def call(latent: Tensor, level: Level, condition: Condition) -> Tensor:
        def call_rows(rows: slice) -> Tensor:
            num_rows = rows.stop - rows.start
            padded = micro_batch.padded(num_rows)
            if padded == num_rows:
                return denoiser(latent[rows], level, condition[rows])
            filled = torch.arange(rows.start, rows.start + padded, device=latent.device)
            filled = filled.clamp(max=rows.stop - 1)  # padding repeats the last row
            return denoiser(latent[filled], level, condition[filled])[:num_rows]

        return torch.cat(micro_batch.map(call_rows, len(latent)))

    return call
