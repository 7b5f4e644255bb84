"""LoRA with separate factors for every row of a batch, so that many images are fitted at once.

Why not peft: it keeps one adapter per module, and runs a batch that mixes adapters one adapter
after the other, for inference only. Here each row has its own factors, and one batched product
computes all rows, forward and backward.

# N rows, R rank, L tokens or pixels, I and O a projection's inputs and outputs, P values per row
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from pipeline.diffusion.denoiser import Condition, Denoiser
from pipeline.diffusion.schedule import Level
from pipeline.models.micro_batch import MicroBatch

# Names of the projections of self-attention and cross-attention in diffusers. The second line is
# the text's own projections in a transformer with joint attention.
PROJECTIONS = (
    *("to_q", "to_k", "to_v", "to_out.0"),
    *("add_q_proj", "add_k_proj", "add_v_proj", "to_add_out"),
)


class LoraSites:
    """The layers of a network that LoRA changes, and the layout of a row's flat factor vector."""

    def __init__(self, network: nn.Module, rank: int) -> None:
        """
        Args:
            network: with diffusers' attention layers.
            rank: R, the rank of each projection's change.

        Raises:
            ValueError: the network has no such projection, or one is smaller than the rank.
        """
        self.rank = rank
        self.modules = [
            module
            for name, module in network.named_modules()
            if name.endswith(PROJECTIONS) and isinstance(module, nn.Linear)
        ]
        if not self.modules:
            raise ValueError(f"{type(network).__name__} has no projection named {PROJECTIONS}")
        widest = min(min(m.in_features, m.out_features) for m in self.modules)
        if rank > widest:
            raise ValueError(f"method.imagic.rank={rank}: this model allows 1 to {widest}")
        self.sizes = [
            size
            for module in self.modules
            for size in (rank * module.in_features, rank * module.out_features)
        ]

    def draw(self, seeds: Sequence[int]) -> Tensor:
        """Initial factors, which change nothing yet: A is uniform, B is zero, as in the paper.

        Args:
            seeds: one per row.

        Returns:
            (N, P) float32 on the CPU.

        Source: LoRA, arXiv:2106.09685, section 4.1; A's bounds are those of ``nn.Linear``.
        """
        rows = []
        for seed in seeds:
            generator = torch.Generator("cpu").manual_seed(seed)
            pieces = []
            for module in self.modules:
                bound = 1.0 / math.sqrt(module.in_features)
                uniform = torch.rand(self.rank * module.in_features, generator=generator)
                pieces += [(2.0 * uniform - 1.0) * bound]
                pieces += [torch.zeros(module.out_features * self.rank)]
            rows.append(torch.cat(pieces))
        return torch.stack(rows)

    @contextmanager
    def attached(self, factors: Tensor) -> Iterator[None]:
        """Applies row n of ``factors`` to row n of the network's batch inside the context.

        Args:
            factors: (N, P). The network must be called with N rows. Gradients reach the factors.
        """
        pieces = iter(torch.split(factors, self.sizes, dim=1))
        hooks = []
        try:
            for module in self.modules:
                a_NRI = next(pieces).view(len(factors), self.rank, module.in_features)
                b_NOR = next(pieces).view(len(factors), module.out_features, self.rank)
                hooks.append(module.register_forward_hook(partial(_changed, a_NRI, b_NOR)))
            yield
        finally:
            for hook in hooks:
                hook.remove()


def _changed(
    a_NRI: Tensor, b_NOR: Tensor, module: nn.Module, inputs: tuple[Any, ...], out_NLO: Tensor
) -> Tensor:
    """W x + B A x, where each row has its own A and B."""
    x_NLI = inputs[0]
    assert len(x_NLI) == len(a_NRI), f"{len(x_NLI)} rows, factors for {len(a_NRI)}"
    low_NLR = torch.bmm(x_NLI, a_NRI.to(x_NLI.dtype).mT)
    return out_NLO + torch.bmm(low_NLR, b_NOR.to(x_NLI.dtype).mT)


def adapted(
    denoiser: Denoiser, sites: LoraSites, factors: Tensor, micro_batch: MicroBatch
) -> Denoiser:
    """The denoiser with LoRA factors per row, called in micro-batches.

    Args:
        denoiser: uses the network of ``sites``; without micro-batches of its own.
        sites: where the factors go.
        factors: (N, P). If called with a multiple of N rows (guidance doubles them), row i gets
            the factors i modulo N.
        micro_batch: the stage's.
    """

    def call(latent: Tensor, level: Level, condition: Condition) -> Tensor:
        factor_rows = torch.arange(len(latent), device=latent.device) % len(factors)

        def call_rows(rows: slice) -> Tensor:
            with sites.attached(factors[factor_rows[rows]]):
                return denoiser(latent[rows], level, condition[rows])

        return torch.cat(micro_batch.map(call_rows, len(latent)))

    return call
