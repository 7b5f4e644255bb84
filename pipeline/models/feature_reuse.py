"""Reuses a UNet's deep features, computed at some steps, at the steps that follow.

The features of the inner layers change little from step to step, but take most of the time.
Between two full evaluations only the outermost layers are computed: the first down layers, which
read the latent, and the last up layers, which get the features of the last full evaluation.

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
from pipeline.models.network import NetworkDenoiser
from pipeline.models.unet_family import UNetFamily


class ReusingDenoiser:
    """A ``Denoiser`` for one loop over levels. Calls of one length have the same rows in order.

    Features are stored per row, not per network call, so the micro-batch may be halved between
    two steps.
    """

    def __init__(
        self, denoiser: NetworkDenoiser, micro_batch: MicroBatch, settings: Reuse, first: Level
    ) -> None:
        """
        Args:
            denoiser: without micro-batches of its own, not compiled.
            micro_batch: the stage's.
            settings: interval and layers.
            first: the loop's first level. The whole network is computed there and at every
                ``interval``-th level after it, so a loop can start again without a reset.
        """
        self.denoiser, self.micro_batch = denoiser, micro_batch
        self.settings, self.first = settings, first
        self._deep: Tensor | None = None

    def __call__(self, latent: Tensor, level: Level, condition: Condition) -> Tensor:
        """As ``Denoiser``."""
        layers, deep = self.settings.layers, self._deep
        # without its negative half, or with it again, a call has other rows than those kept
        if self._is_whole(level) or deep is None or len(deep) != len(latent):
            results = self.micro_batch.map(
                lambda rows: evaluate(self.denoiser, latent[rows], level, condition[rows], layers),
                len(latent),
            )
            self._deep = torch.cat([features for _, features in results])
            return torch.cat([eps for eps, _ in results])
        return torch.cat(
            self.micro_batch.map(
                lambda rows: evaluate_outermost(
                    self.denoiser, latent[rows], level, condition[rows], layers, deep[rows]
                ),
                len(latent),
            )
        )

    def _is_whole(self, level: Level) -> bool:
        return abs(level.index - self.first.index) % self.settings.interval == 0


def denoiser_for(
    denoiser: Denoiser, unbatched: Denoiser, micro_batch: MicroBatch, settings: Reuse, first: Level
) -> Denoiser:
    """The denoiser for one loop over levels, with feature reuse if the settings ask for it.

    Args:
        denoiser: in micro-batches.
        unbatched: the same without micro-batches; must be a UNet's if features are reused.
        micro_batch: the stage's.
        settings: an interval of 1 means no reuse.
        first: see ``ReusingDenoiser``.
    """
    if settings.interval == 1:
        return denoiser
    assert isinstance(unbatched, NetworkDenoiser), "check_suits refuses other families"
    return ReusingDenoiser(unbatched, micro_batch, settings, first)


def evaluate(
    denoiser: NetworkDenoiser,
    latent: Tensor,
    level: Level | RowLevels,
    condition: Condition,
    layers: int,
) -> tuple[Tensor, Tensor]:
    """Evaluates the whole network; also returns the deep features that the last layers get.

    Returns:
        (N, C, h, w) float32 eps; (N, C', h, w) features in the network's dtype.
    """
    unet = denoiser.network
    num_skipped = unet.conv_in.out_channels  # a layer's input ends with the skip connection
    seen: list[Tensor] = []

    def keep(module: Any, inputs: tuple[Any, ...]) -> None:
        seen.append(inputs[0][:, :-num_skipped].clone())  # a copy, which frees the skip's memory

    hook = unet.up_blocks[-1].resnets[-layers].register_forward_pre_hook(keep)
    try:
        eps = denoiser(latent, level, condition)
    finally:
        hook.remove()
    return eps, seen[0]


def evaluate_outermost(
    denoiser: NetworkDenoiser,
    latent: Tensor,
    level: Level | RowLevels,
    condition: Condition,
    layers: int,
    deep: Tensor,
) -> Tensor:
    """Evaluates the outermost layers only, with the deep features of another evaluation.

    Returns:
        (N, C, h, w) float32 eps; equal to ``evaluate``'s if ``deep`` is of the same evaluation.
    """
    assert isinstance(denoiser.family, UNetFamily), "check_suits refuses other families"
    sample, timestep, seen = denoiser.inputs(latent, level, condition)
    added = denoiser.family.added_conditions(sample, seen, denoiser.latent_scale)
    predicted = _outermost(denoiser.network, sample, timestep, seen.tokens, added, layers, deep)
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
    """diffusers 0.42's ``UNet2DConditionModel.forward`` without the inner layers."""
    embedding = unet.time_embedding(unet.get_time_embed(sample=latent, timestep=timestep))
    added_embedding = unet.get_aug_embed(
        emb=embedding, encoder_hidden_states=tokens, added_cond_kwargs=added
    )
    if added_embedding is not None:
        embedding = embedding + added_embedding
    hidden = unet.conv_in(latent)
    skips = [hidden]
    down, up = unet.down_blocks[0], unet.up_blocks[-1]
    for number in range(layers - 1):
        hidden = _layer(down, number, hidden, embedding, tokens)
        skips.append(hidden)
    hidden = deep
    for number in range(len(up.resnets) - layers, len(up.resnets)):
        hidden = _layer(up, number, torch.cat([hidden, skips.pop()], dim=1), embedding, tokens)
    predicted: Tensor = unet.conv_out(unet.conv_act(unet.conv_norm_out(hidden)))
    return predicted


def _layer(block: Any, number: int, hidden: Tensor, embedding: Tensor, tokens: Tensor) -> Tensor:
    """One residual layer, and the attention after it if the block has attention."""
    hidden = block.resnets[number](hidden, embedding)
    if getattr(block, "has_cross_attention", False):
        attention = block.attentions[number]
        hidden = attention(hidden, encoder_hidden_states=tokens, return_dict=False)[0]
    return hidden
