"""Counts the memory that a fit of Imagic takes, as ``counted_memory`` does that of calls.

Two steps of the fit run on the meta device, with their backward passes: activations that a backward
pass needs, gradients and Adam's states are then among the tensors that are alive.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import diffusers
import torch
from torch import Tensor
from torch.nn import functional

from pipeline.config.imagic import Imagic
from pipeline.config.model import Model
from pipeline.diffusion.denoiser import Condition
from pipeline.diffusion.imagic import minimize, prediction_loss
from pipeline.diffusion.row_levels import RowLevels
from pipeline.models.counted_memory import LONG_TEXT, empty_network, largest_grid, peak_bytes
from pipeline.models.families import family_named
from pipeline.models.loading import DTYPES
from pipeline.models.lora import LoraSites
from pipeline.models.memory_facts import CallMemory
from pipeline.models.micro_batch import MicroBatch
from pipeline.models.model_info import ModelInfo
from pipeline.models.network import NetworkDenoiser
from pipeline.models.text_pipeline import load_text

STEPS = 2  # in the second one Adam's states are there from the start
RATE = 1e-3  # of no effect: nothing is computed


def count_fit(info: ModelInfo, model: Model, imagic: Imagic) -> CallMemory:
    """The bytes beside the network's weights of a fit of N edits at once; of all weights, of one.

    Args:
        info, model: see ``count_memory``.
        imagic: the form, its rank and its draws.
    """
    family, dtype = family_named(info.family), DTYPES[model.dtype]
    folder, network_class = family.network
    network = empty_network(getattr(diffusers, network_class), info.folder / folder, dtype)
    family.prepare(network)
    if imagic.checkpointing:
        network.enable_gradient_checkpointing()
    text = load_text(
        info, lambda kind, name: empty_network(kind, info.folder / name, dtype), MicroBatch(2)
    )
    conditions: list[Condition] = []
    peak_bytes(torch.no_grad()(lambda: conditions.append(text.encode_texts([LONG_TEXT]))))
    denoiser = NetworkDenoiser(family, network, info.prediction_type, 0.0, info.latent_scale)
    fit = partial(_fit, denoiser, conditions[0], imagic, largest_grid(info, model))
    one = peak_bytes(partial(fit, 1), _fused)
    if imagic.rank is None:
        return CallMemory(row=one)
    two = peak_bytes(partial(fit, 2), _fused)
    return CallMemory(row=two - one, fixed=max(0, 2 * one - two))


def _fit(
    denoiser: NetworkDenoiser,
    text: Condition,
    imagic: Imagic,
    grid: tuple[int, int, int],
    num_edits: int,
) -> None:
    """As ``ImagicFitStage`` fits so many edits: embedding, then factors or all weights."""
    rows = torch.arange(num_edits).repeat_interleave(imagic.draws)
    texts, network = text[torch.zeros(num_edits, dtype=torch.long)], denoiser.network
    numbers = torch.empty(len(rows), device="meta")
    levels = RowLevels(numbers, *(numbers.view(-1, 1, 1, 1).clone() for _ in range(2)))
    clean = torch.empty(len(rows), *grid, device="meta")

    def loss(condition: Condition) -> Tensor:
        noise = torch.empty_like(clean)
        of_rows = condition[rows]
        return prediction_loss(denoiser, clean, noise, levels, of_rows, denoiser.prediction_type)

    tokens = texts.tokens.clone().requires_grad_()
    fitted = texts.with_tokens(tokens)
    if imagic.embedding_steps:
        minimize([tokens], lambda: loss(fitted), steps=STEPS, learning_rate=RATE)
    texts, tokens.grad = texts.with_tokens(tokens.detach()), None
    if imagic.rank is None:
        try:
            network.requires_grad_(True)
            trained = list(network.parameters())
            minimize(trained, lambda: loss(texts), steps=STEPS, learning_rate=RATE)
        finally:
            network.requires_grad_(False)
            network.zero_grad(set_to_none=True)
        return
    sites = LoraSites(network, imagic.rank)
    factors = torch.empty(num_edits, sum(sites.sizes), device="meta", requires_grad=True)
    minimize(
        [factors],
        lambda: loss(texts),
        steps=STEPS,
        learning_rate=RATE,
        context=lambda: sites.attached(factors.repeat_interleave(imagic.draws, dim=0)),
    )


class _Attention(torch.autograd.Function):
    """What a fused kernel makes, and keeps for its backward pass: inputs, output, sums by query."""

    @staticmethod
    def forward(context: Any, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        made = query.new_empty((*query.shape[:-1], value.shape[-1]))
        sums = query.new_empty(query.shape[:-1], dtype=torch.float32)
        context.save_for_backward(query, key, value, made, sums)
        return made

    @staticmethod
    def backward(context: Any, gradient: Tensor) -> tuple[Tensor, ...]:
        query, key, value, *_ = context.saved_tensors
        return torch.empty_like(query), torch.empty_like(key), torch.empty_like(value)


@contextmanager
def _fused() -> Iterator[None]:
    """Attention as fused kernels compute it, with a backward pass, in which checkpoints call it."""
    kept = functional.scaled_dot_product_attention

    def attention(query: Tensor, key: Tensor, value: Tensor, *rest: Any, **options: Any) -> Any:
        return _Attention.apply(query, key, value)  # type: ignore[no-untyped-call]

    functional.scaled_dot_product_attention = attention
    try:
        yield
    finally:
        functional.scaled_dot_product_attention = kept
