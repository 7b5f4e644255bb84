"""Deep features of a UNet, computed at some steps and used again at the next ones.

From step to step the inner layers' features change little, and most of the time is spent there.
Between two whole evaluations only the outermost layers are computed: the first ones down, which
read the latent, and the last ones up, which are given the features of the last whole evaluation.

Source: DeepCache, arXiv:2312.00858, section 3; uniform intervals (its 1:N strategy).
"""

# N rows, C channels, h w latent grid

from __future__ import annotations

from typing import Any

import torch
from diffusers import UNet2DConditionModel
from torch import Tensor

from pipeline.config.method import Reuse
from pipeline.diffusion.denoiser import Condition, Denoiser
from pipeline.diffusion.row_levels import RowLevels
from pipeline.diffusion.schedule import Level
from pipeline.models.micro_batch import MicroBatch
from pipeline.models.network import UNetDenoiser


class ReusingDenoiser:
    """A ``Denoiser`` for one loop over levels: the same rows, in the same order, at every call.

    Features belong to rows and not to calls of the network, so that a micro-batch may be halved
    between two steps.
    """

    def __init__(
        self, denoiser: UNetDenoiser, micro_batch: MicroBatch, settings: Reuse, first: Level
    ) -> None:
        """
        Args:
            denoiser: not in micro-batches of its own, not compiled.
            micro_batch: the stage's.
            settings: interval and layers.
            first: where the loop begins. The whole network is computed there, and at every
                ``interval``-th level from there, so that a loop that begins anew needs no notice.
        """
        self.denoiser, self.micro_batch = denoiser, micro_batch
        self.settings, self.first = settings, first
        self._deep: Tensor | None = None

    def __call__(self, latent: Tensor, level: Level, condition: Condition) -> Tensor:
        """As ``Denoiser``."""
        layers, deep = self.settings.layers, self._deep
        if self._is_whole(level) or deep is None:
            results = self.micro_batch.over(
                len(latent),
                lambda rows: evaluate(self.denoiser, latent[rows], level, condition[rows], layers),
            )
            self._deep = torch.cat([features for _, features in results])
            return torch.cat([eps for eps, _ in results])
        return torch.cat(
            self.micro_batch.over(
                len(latent),
                lambda rows: evaluate_outermost(
                    self.denoiser, latent[rows], level, condition[rows], layers, deep[rows]
                ),
            )
        )

    def _is_whole(self, level: Level) -> bool:
        return abs(level.index - self.first.index) % self.settings.interval == 0


def denoiser_for(
    denoiser: Denoiser, unbatched: Denoiser, micro_batch: MicroBatch, settings: Reuse, first: Level
) -> Denoiser:
    """The denoiser of a loop that begins at a level: as it is, or with features used again.

    Args:
        denoiser: in micro-batches.
        unbatched: the same, without; a UNet's if anything is to be used again.
        micro_batch: the stage's.
        settings: an interval of 1 changes nothing.
        first: see ``ReusingDenoiser``.
    """
    if settings.interval == 1:
        return denoiser
    assert isinstance(unbatched, UNetDenoiser), "check_suits refuses other families"
    return ReusingDenoiser(unbatched, micro_batch, settings, first)


def evaluate(
    denoiser: UNetDenoiser,
    latent: Tensor,
    level: Level | RowLevels,
    condition: Condition,
    layers: int,
) -> tuple[Tensor, Tensor]:
    """The whole network, and what its last ``layers`` layers are given from further inside.

    Returns:
        (N, C, h, w) float32 eps; (N, C', h, w) features in the network's dtype.
    """
    unet = denoiser.unet
    skipped = unet.conv_in.out_channels  # a layer's input is features and, last, a skip
    seen: list[Tensor] = []

    def keep(module: Any, inputs: tuple[Any, ...]) -> None:
        seen.append(inputs[0][:, :-skipped].clone())  # a copy: the skip's memory is set free

    hook = unet.up_blocks[-1].resnets[-layers].register_forward_pre_hook(keep)
    try:
        eps = denoiser(latent, level, condition)
    finally:
        hook.remove()
    return eps, seen[0]


def evaluate_outermost(
    denoiser: UNetDenoiser,
    latent: Tensor,
    level: Level | RowLevels,
    condition: Condition,
    layers: int,
    deep: Tensor,
) -> Tensor:
    """The outermost layers alone, with features of another evaluation.

    Returns:
        (N, C, h, w) float32 eps; what ``evaluate`` gives if ``deep`` is of the same evaluation.
    """
    predicted = _outermost(denoiser.unet, *denoiser.inputs(latent, level, condition), layers, deep)
    return denoiser.eps_from(predicted, latent, level)


def _outermost(
    unet: UNet2DConditionModel,
    latent: Tensor,
    timestep: Tensor,
    tokens: Tensor,
    added: dict[str, Tensor] | None,
    layers: int,
    deep: Tensor,
) -> Tensor:
    """diffusers 0.42's ``UNet2DConditionModel.forward`` without what lies further inside."""
    embedding = unet.time_embedding(unet.get_time_embed(sample=latent, timestep=timestep))
    further = unet.get_aug_embed(
        emb=embedding, encoder_hidden_states=tokens, added_cond_kwargs=added
    )
    if further is not None:
        embedding = embedding + further
    hidden = unet.conv_in(latent)
    skips = [hidden]
    down, up = unet.down_blocks[0], unet.up_blocks[-1]
    for number in range(layers - 1):
        hidden = _layer(down, number, hidden, embedding, tokens)
        skips.append(hidden)
    hidden = deep
    for number in range(len(up.resnets) - layers, len(up.resnets)):
        hidden = _layer(up, number, torch.cat([hidden, skips.pop()], dim=1), embedding, tokens)
    return unet.conv_out(unet.conv_act(unet.conv_norm_out(hidden)))


def _layer(block: Any, number: int, hidden: Tensor, embedding: Tensor, tokens: Tensor) -> Tensor:
    """A residual block, and the attention after it where the block has some."""
    hidden = block.resnets[number](hidden, embedding)
    if getattr(block, "has_cross_attention", False):
        attention = block.attentions[number]
        hidden = attention(hidden, encoder_hidden_states=tokens, return_dict=False)[0]
    return hidden
